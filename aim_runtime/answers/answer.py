"""One question about one video, answered under a schedule."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aim_cost.render import Row, counted_progress
from aim_cost.schedules.schedule import Schedule
from aim_runtime.models import require_onevision
from aim_runtime.models.load import Loaded
from aim_runtime.patching.patch import patched
from aim_runtime.prompts.inputs import question_inputs
from aim_runtime.prompts.video import sample_frames


@dataclass(frozen=True)
class Answer:
    """An answer of a checkpoint, with its time and tokens.

    Args:
        generate_s: one run of the host's clock without warm-up; ``measure`` gives times to compare.
        tokens_per_layer: that entered each layer of the prefill.
    """

    model: str
    schedule: Schedule
    frames: int
    text: str
    new_tokens: int
    generate_s: float
    tokens_per_layer: tuple[int, ...]

    def to_row(self) -> Row:
        """One flat row."""
        tokens = list(self.tokens_per_layer)
        return {**vars(self), "schedule": self.schedule.label(), "tokens_per_layer": tokens}


def answer(
    loaded: Loaded,
    video: Path,
    question: str,
    frames: int,
    schedule: Schedule,
    max_new_tokens: int,
    *,
    damaged: bool = False,
) -> Answer:
    """Generate greedily. Args: damaged, as for ``sample_frames``."""
    model = require_onevision(loaded.model, "a question about a video")
    shown = _frames(video, frames, damaged)
    inputs, tokenizer = question_inputs(loaded, shown, question)
    start = time.perf_counter()
    with patched(model, schedule) as trace:
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return Answer(
        model=loaded.spec.name,
        schedule=schedule,
        frames=frames,
        text=tokenizer.decode(new, skip_special_tokens=True).strip(),
        new_tokens=len(new),
        generate_s=time.perf_counter() - start,
        tokens_per_layer=trace.tokens.attention_tokens,
    )


def _frames(video: Path, count: int, damaged: bool) -> np.ndarray:
    """The frames of ``video``, with a bar while they are decoded."""
    with counted_progress() as bar:
        task = bar.add_task(f"reading {video.name}", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return sample_frames(video, count, damaged=damaged, progress=show)
