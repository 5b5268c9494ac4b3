"""Training: the vision tower on single frames, then the LLM on questions about clips.

The recipe follows a trial whose notes say what it takes: a projector that does not start too
small, a ramp of difficulty for the vision tower, many questions behind one clip, Muon for the
LLM's matrices, never clips of one frame. Both stages resume after a kill.
"""

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration

from aim_cost.files import write_atomically
from aim_cost.report import console
from aim_runtime.tiny.model import frame_features, new_model
from aim_runtime.tiny.prompts import packed_logits
from aim_runtime.tiny.questions import KINDS, ask, can_ask
from aim_runtime.tiny.scenes import COLORS, NOTHING, PLACES, Clips, draw_clips, draw_mosaics

CURVE_FILE = "curve.json"
_NONE_DIGIT, _NONE_COLOR = 10, len(COLORS)


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on beside the seed and the versions.

    Args:
        vision_steps, vision_frames: of the first stage; the ramp ends after ``ramp_steps``.
        clips, clip_frames: of the pool whose features the second stage draws from.
        stages: (steps, fewest and most frames of a clip) of the second stage.
        questions: behind each clip; kind_weights, how often each kind is asked.
        save_every: steps between states on disk.
    """

    vision_steps: int = 2400
    vision_frames: int = 64
    ramp_steps: int = 600
    vision_lr: float = 3e-3
    clips: int = 4000
    clip_frames: int = 12
    stages: tuple[tuple[int, int, int], ...] = ((150, 2, 3), (250, 2, 6), (500, 6, 8))
    batch: int = 32
    questions: int = 14
    kind_weights: dict[str, float] = field(
        default_factory=lambda: {
            "digit_of_color": 2.0,
            "color_of_digit": 1.0,
            "place_of_digit": 3.0,
            "exists": 1.0,
            "first_last": 2.0,
            "count_color": 2.0,
        }
    )
    muon_lr: float = 4e-3
    adam_lr: float = 1.5e-3
    save_every: int = 100
    validation_clips: int = 250

    @property
    def answer_steps(self) -> int:
        return sum(steps for steps, _, _ in self.stages)


def train(
    seed: int, folder: Path, recipe: Recipe | None = None
) -> LlavaOnevisionForConditionalGeneration:
    """Train a model from nothing, or go on from what ``folder`` holds.

    Writes there: ``state.pt`` while training, ``curve.json``: validation accuracy by kind and loss,
    every ``save_every`` steps, the recipe, the seed and the seconds spent. Data is drawn from the
    seed and the step, so a run that was interrupted ends as one that was not.
    Returns: the model in eval mode; its last state was validated, no best one is chosen.
    """
    recipe = recipe or Recipe()
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(seed, folder, recipe)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(error=True),
        transient=True,
    ) as progress:
        _train_vision(run, progress)
        _train_answers(run, progress)
    return run.model.eval()


class _Run:
    """The model, its optimisers and how far it is; all of it goes to disk and comes back."""

    def __init__(self, seed: int, folder: Path, recipe: Recipe) -> None:
        self.seed, self.folder, self.recipe = seed, folder, recipe
        self.model = new_model(seed)
        self.heads = _Heads(self.model.config.text_config.hidden_size, seed)
        self.done = {"vision": 0, "answers": 0}
        self.curve: list[dict[str, Any]] = []
        self.seconds, self.cpu_seconds = 0.0, 0.0
        self._since = time.monotonic(), time.process_time()
        self.optimizers: dict[str, dict[str, Any]] = {"vision": {}, "answers": {}}
        if self._file.exists():
            state = torch.load(self._file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.done, self.curve = state["done"], state["curve"]
            self.seconds, self.cpu_seconds = state["seconds"], state["cpu_seconds"]
            self.optimizers = state["optimizers"]

    @property
    def _file(self) -> Path:
        return self.folder / "state.pt"

    def rng(self, stage: str, step: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, ("vision", "pool", "answers").index(stage), step])

    def save(self, stage: str, step: int, optimizers: list[torch.optim.Optimizer]) -> None:
        now = time.monotonic(), time.process_time()
        self.seconds += now[0] - self._since[0]
        self.cpu_seconds += now[1] - self._since[1]
        self._since = now
        self.done[stage] = step
        self.optimizers[stage] = {str(i): o.state_dict() for i, o in enumerate(optimizers)}
        state = BytesIO()
        torch.save(
            {
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "done": self.done,
                "curve": self.curve,
                "seconds": self.seconds,
                "cpu_seconds": self.cpu_seconds,
                "optimizers": self.optimizers,
            },
            state,
        )
        write_atomically(self._file, state.getvalue())
        told = {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "recipe": asdict(self.recipe),
            "curve": self.curve,
        }
        write_atomically(self.folder / CURVE_FILE, (json.dumps(told, indent=2) + "\n").encode())


class _Heads(nn.Module):
    """Thrown away after the first stage: digit, colour and place from what the LLM will see."""

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.digit, self.color = nn.Linear(hidden, 11), nn.Linear(hidden, len(COLORS) + 1)
        self.place = nn.Linear(hidden, len(PLACES))

    def losses(self, features: Tensor, digit: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
        """The loss over tokens and quadrants, and the accuracy of digits over quadrants.

        Shapes: features[n, 16, hidden], digit and color [n, 4] with their own class for nothing.
        """
        # 4 x 4 tokens -> [n, 4 places, 4 tokens, hidden]
        grid = features.unflatten(1, (2, 2, 2, 2)).transpose(2, 3).flatten(1, 2).flatten(2, 3)
        place = torch.arange(len(PLACES)).expand(len(digit), -1)
        loss = features.new_zeros(())
        for x, times in ((grid, 4), (grid.mean(dim=2, keepdim=True), 1)):
            for head, target in ((self.digit, digit), (self.color, color), (self.place, place)):
                wanted = target[..., None].expand(-1, -1, times)
                loss = loss + functional.cross_entropy(head(x).flatten(0, 2), wanted.flatten())
        guess = self.digit(grid.mean(dim=2)).argmax(dim=-1)
        return loss, (guess == digit).float().mean()


def _train_vision(run: _Run, progress: Progress) -> None:
    recipe, model = run.recipe, run.model
    if run.done["vision"] >= recipe.vision_steps:
        return
    core = model.model
    parameters = [
        *core.vision_tower.parameters(),
        *core.multi_modal_projector.parameters(),
        *run.heads.parameters(),
    ]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.vision_lr, betas=(0.9, 0.98), weight_decay=0.02
    )
    _restore(run, "vision", [optimizer])
    task = progress.add_task("vision", total=recipe.vision_steps, completed=run.done["vision"])
    for step in range(run.done["vision"], recipe.vision_steps):
        difficulty = min(1.0, step / recipe.ramp_steps)
        rng = run.rng("vision", step)
        frames = draw_mosaics("train", recipe.vision_frames, rng, difficulty=difficulty)
        loss, _ = run.heads.losses(*_seen(model, frames))
        _step([optimizer], [recipe.vision_lr], loss, parameters, step / recipe.vision_steps)
        progress.advance(task)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.vision_steps:
            row = {"stage": "vision", "step": step + 1, "loss": loss.item()}
            run.curve.append({**row, "digit": _vision_accuracy(run)})
            run.save("vision", step + 1, [optimizer])


def _seen(model: LlavaOnevisionForConditionalGeneration, frames: Any) -> tuple[Tensor, ...]:
    digit, color = (torch.from_numpy(x).clone() for x in (frames.digit, frames.color))
    digit[digit == NOTHING] = _NONE_DIGIT
    color[color == NOTHING] = _NONE_COLOR
    return frame_features(model, torch.from_numpy(frames.pixels)), digit, color


@torch.no_grad()
def _vision_accuracy(run: _Run) -> float:
    frames = draw_mosaics("validation", 500, np.random.default_rng(0))
    return float(run.heads.losses(*_seen(run.model, frames))[1])


def _train_answers(run: _Run, progress: Progress) -> None:
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
    _restore(run, "answers", optimizers)
    task = progress.add_task("answers", total=steps, completed=run.done["answers"])
    for step in range(run.done["answers"], steps):
        rng = run.rng("answers", step)
        frames = _frames_at(step, recipe, rng)
        seen, questions, answers = _questions(clips, features, frames, recipe, rng)
        logits = packed_logits(model, seen, questions)
        loss = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        rates = [recipe.muon_lr, recipe.adam_lr]
        _step(optimizers, rates, loss, [*matrices, *rest], step / steps)
        progress.advance(task)
        if (step + 1) % recipe.save_every == 0 or step + 1 == steps:
            row = {"stage": "answers", "step": step + 1, "frames": frames, "loss": loss.item()}
            run.curve.append({**row, **packed_accuracy(model, *validation)})
            run.save("answers", step + 1, optimizers)


def _step(
    optimizers: list[torch.optim.Optimizer],
    rates: list[float],
    loss: Tensor,
    parameters: list[nn.Parameter],
    share: float,
) -> None:
    """One step at the rates of a cosine schedule with a short warm-up; gradients clipped at 1."""
    factor = min(1.0, share / 0.02 + 0.02) * 0.5 * (1 + math.cos(math.pi * share))
    for optimizer, rate in zip(optimizers, rates, strict=True):
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()


def _restore(run: _Run, stage: str, optimizers: list[torch.optim.Optimizer]) -> None:
    for index, state in run.optimizers[stage].items():
        optimizers[int(index)].load_state_dict(state)


@torch.no_grad()
def clip_features(
    model: LlavaOnevisionForConditionalGeneration,
    split: str,
    clips: int,
    frames: int,
    rng: np.random.Generator,
) -> tuple[Clips, Tensor]:
    """Draw clips and encode them once: features[clips, frames, 16, hidden]; pixels are let go."""
    parts, facts = [], []
    for start in range(0, clips, 100):
        drawn = draw_clips(split, min(100, clips - start), frames, rng)
        pixels = torch.from_numpy(drawn.pixels)
        parts.append(frame_features(model, pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]))
        facts.append((drawn.digit, drawn.color, drawn.place))
    digit, color, place = (np.concatenate(x) for x in zip(*facts, strict=True))
    nothing = np.empty((0, frames, 3, 0, 0), np.float32)
    return Clips(nothing, digit, color, place), torch.cat(parts)


def _frames_at(step: int, recipe: Recipe, rng: np.random.Generator) -> int:
    for steps, fewest, most in recipe.stages:
        if step < steps:
            return int(rng.integers(fewest, most + 1))
        step -= steps
    raise AssertionError("a step beyond the recipe")


def _questions(
    clips: Clips, features: Tensor, frames: int, recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch: features[B, F, 16, hidden] of frames drawn from the pool, questions, answers."""
    kinds = tuple(recipe.kind_weights)
    weights = np.array([recipe.kind_weights[kind] for kind in kinds])
    seen, questions, answers = [], [], []
    while len(seen) < recipe.batch:
        clip = int(rng.integers(len(clips.digit)))
        order = rng.permutation(clips.digit.shape[1])[:frames]
        facts = [x[clip, order] for x in (clips.digit, clips.color, clips.place)]
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


def packed_questions(
    model: LlavaOnevisionForConditionalGeneration,
    split: str,
    clips: int,
    rng: np.random.Generator,
    frames: int = 8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Clips that allow a question of every kind: features, questions[C, 6, 5], answers[C, 6]."""
    drawn, features = clip_features(model, split, 2 * clips, frames, rng)
    kept, questions, answers = [], [], []
    for clip in range(2 * clips):
        facts = [x[clip] for x in (drawn.digit, drawn.color, drawn.place)]
        if len(kept) < clips and all(can_ask(kind, facts[0], facts[1]) for kind in KINDS):
            asked = [ask(kind, *facts, rng) for kind in KINDS]
            kept.append(clip)
            questions.append([words for words, _ in asked])
            answers.append([answer for _, answer in asked])
    return features[kept], torch.tensor(questions), torch.tensor(answers)


@torch.no_grad()
def packed_accuracy(
    model: LlavaOnevisionForConditionalGeneration,
    features: Tensor,
    questions: Tensor,
    answers: Tensor,
) -> dict[str, float]:
    """The share of right answers, by kind."""
    right = []
    for part in torch.arange(len(features)).split(50):
        logits = packed_logits(model, features[part], questions[part])
        right.append(logits.argmax(dim=-1) == answers[part])
    shares = torch.cat(right).float().mean(dim=0).tolist()
    return dict(zip(KINDS, shares, strict=True))
