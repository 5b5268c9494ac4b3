"""First stage: vision tower and projector learn to see digits, on single frames."""

from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from aim_runtime.tiny.model import frame_features
from aim_runtime.tiny.run import Run
from aim_runtime.tiny.run import step as step_with
from aim_runtime.tiny.scenes import COLORS, NOTHING, draw_mosaics

_NONE_DIGIT, _NONE_COLOR = 10, len(COLORS)


def train_vision(run: Run, progress: Progress) -> None:
    """Run what is left of the first stage."""
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
    run.restore("vision", [optimizer])
    task = progress.add_task("vision", total=recipe.vision_steps, completed=run.done["vision"])
    for step in range(run.done["vision"], recipe.vision_steps):
        difficulty = min(1.0, step / recipe.ramp_steps)
        rng = run.rng("vision", step)
        frames = draw_mosaics(
            "train", recipe.vision_frames, rng, size=recipe.frame_size, difficulty=difficulty
        )
        loss, _ = run.heads.losses(*_seen(model, frames))
        step_with([optimizer], [recipe.vision_lr], loss, parameters, step / recipe.vision_steps)
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
def _vision_accuracy(run: Run) -> float:
    frames = draw_mosaics("validation", 500, np.random.default_rng(0), size=run.recipe.frame_size)
    return float(run.heads.losses(*_seen(run.model, frames))[1])
