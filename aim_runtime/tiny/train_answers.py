"""Second stage: the LLM learns to answer questions, on frozen features of clips."""

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration

from aim_runtime.tiny.packed import clip_features, packed_accuracy, packed_questions
from aim_runtime.tiny.prompts import packed_logits
from aim_runtime.tiny.questions import ask, can_ask
from aim_runtime.tiny.recipe import Recipe
from aim_runtime.tiny.run import Run
from aim_runtime.tiny.run import step as step_with
from aim_runtime.tiny.scenes import Clips


def train_answers(run: Run, progress: Progress) -> None:
    """Run what is left of the second stage."""
    recipe, model = run.recipe, run.model
    steps = recipe.answer_steps
    if run.done["answers"] >= steps:
        return
    clips, features = clip_features(
        model, "train", recipe.clips, recipe.clip_frames, run.rng("pool", 0)
    )
    validation = _validation(model, recipe)
    decoder = model.model.language_model
    matrices = [p for p in decoder.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in decoder.parameters() if id(p) not in chosen] + [model.model.image_newline]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, lr=recipe.muon_lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.02),
    ]
    run.restore("answers", optimizers)
    task = progress.add_task("answers", total=steps, completed=run.done["answers"])
    for step in range(run.done["answers"], steps):
        rng = run.rng("answers", step)
        frames = _frames_at(step, recipe, rng)
        seen, questions, answers = _questions(clips, features, frames, recipe, rng)
        logits = packed_logits(model, seen, questions)
        loss = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        rates = [recipe.muon_lr, recipe.adam_lr]
        step_with(optimizers, rates, loss, [*matrices, *rest], step / steps)
        progress.advance(task)
        if (step + 1) % recipe.save_every == 0 or step + 1 == steps:
            row = {"stage": "answers", "step": step + 1, "frames": frames, "loss": loss.item()}
            run.curve.append({**row, **packed_accuracy(model, *validation)})
            run.save("answers", step + 1, optimizers)


def _frames_at(step: int, recipe: Recipe, rng: np.random.Generator) -> int:
    for steps, fewest, most in recipe.stages:
        if step < steps:
            return int(rng.integers(fewest, most + 1))
        step -= steps
    raise AssertionError("a step beyond the recipe")


def _questions(
    clips: Clips, features: Tensor, frames: int, recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch: features[B, F, tokens, hidden] of frames drawn from the pool, questions, answers."""
    kinds = tuple(recipe.kind_weights)
    weights = np.array([recipe.kind_weights[kind] for kind in kinds])
    seen: list[Tensor] = []
    questions, answers = [], []
    while len(seen) < recipe.batch:
        clip = int(rng.integers(len(clips.digit)))
        order = rng.permutation(clips.digit.shape[1])[:frames]
        facts = (clips.digit[clip, order], clips.color[clip, order], clips.place[clip, order])
        able = np.array([can_ask(kind, facts[0], facts[1]) for kind in kinds])
        if not able.any():
            continue
        chances = weights * able / (weights * able).sum()
        drawn = rng.choice(len(kinds), size=recipe.questions, p=chances)
        asked = [ask(kinds[kind], *facts, rng) for kind in drawn]
        seen.append(features[clip, order])
        questions.append([words for words, _ in asked])
        answers.append([answer for _, answer in asked])
    return torch.stack(seen), torch.tensor(questions), torch.tensor(answers)


def _validation(
    model: LlavaOnevisionForConditionalGeneration, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """The validation clips with a question of each kind, always the same."""
    rng = np.random.default_rng(1)
    return packed_questions(model, "validation", recipe.validation_clips, rng)
