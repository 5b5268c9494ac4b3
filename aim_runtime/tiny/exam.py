"""An exam: questions about clips that training never saw, encoded once for many schedules."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from aim_cost.checks import one_of, whole
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.models.part import Part
from aim_runtime.patching.patch import patched
from aim_runtime.patching.undo import Changes
from aim_runtime.tiny.model import frame_size, frame_tokens, patch_features
from aim_runtime.tiny.prompts import prompt_ids
from aim_runtime.tiny.questions import KINDS, ask, can_ask
from aim_runtime.tiny.scenes import draw_clips

EXAM_SPLITS = ("test", "validation")
"""The splits that training never saw."""


@dataclass(frozen=True)
class Exam:
    """One question about each clip, the kinds in turn.

    Shapes: pixels[n, F, 3, size, size]; patches[n, f, p, hidden], what the projector gives for each
    frame that is encoded; attended[n, f, p, channels], what the last layer of the tower attends to;
    input_ids[n, t]; answers[n], ids of words; kinds, n names.
    """

    pixels: Tensor
    patches: Tensor
    attended: Tensor
    input_ids: Tensor
    answers: Tensor
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.kinds)


@torch.no_grad()
def draw_exam(
    model: LlavaOnevisionForConditionalGeneration,
    split: str,
    count: int,
    *,
    frames: int = 8,
    seed: int = 0,
) -> Exam:
    """Draw ``count`` clips of a split, ask one question about each, and encode them.

    Raises: MeasurementError for another split, or numbers that are none of clips or frames.
    """
    _check(split, count, frames, seed)
    rng = np.random.default_rng(seed)
    kinds = _kinds(count)
    pixels: list[Tensor] = []
    ids: list[Tensor] = []
    answers: list[int] = []
    while len(ids) < count:
        clips = draw_clips(split, 100, frames, rng, size=frame_size(model))
        for clip in range(len(clips.digit)):
            facts = (clips.digit[clip], clips.color[clip], clips.place[clip])
            if len(ids) == count or not can_ask(kind := kinds[len(ids)], facts[0], facts[1]):
                continue
            words, answer = ask(kind, *facts, rng)
            pixels.append(torch.from_numpy(clips.pixels[clip]))
            ids.append(prompt_ids(words, frames * frame_tokens(model) + 1))
            answers.append(answer)
    drawn = torch.stack(pixels)
    seen = encode(model, drawn)
    return Exam(drawn, *seen, torch.cat(ids), torch.tensor(answers), kinds)


def _check(split: str, count: int, frames: int, seed: int) -> None:
    one_of(split, EXAM_SPLITS, "split", MeasurementError)
    whole(count, "questions", MeasurementError)
    whole(frames, "frames", MeasurementError)
    whole(seed, "seed", MeasurementError, at_least=0)


def _kinds(count: int) -> tuple[str, ...]:
    """The kinds in turn, ``count`` in all."""
    return tuple(islice(cycle(KINDS), count))


@dataclass(frozen=True)
class Examiner:
    """An exam that is drawn, in up to a minute, once its first schedule is asked.

    Args: as of ``draw_exam``. Raises: as it does, before anything is drawn.
    """

    model: LlavaOnevisionForConditionalGeneration
    split: str
    count: int
    frames: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.split, self.count, self.frames, self.seed)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the questions."""
        return _kinds(self.count)

    @cached_property
    def exam(self) -> Exam:
        return draw_exam(self.model, self.split, self.count, frames=self.frames, seed=self.seed)

    def answered(self, schedule: Schedule) -> tuple[Tensor, float]:
        """As the function of that name says."""
        return answered(self.model, self.exam, schedule)


@torch.no_grad()
def encoded_by(
    model: LlavaOnevisionForConditionalGeneration, exam: Exam, schedule: Schedule
) -> Exam:
    """The same exam, its clips encoded as by a schedule's tower: merged there, of fewer frames."""
    merge, sample = schedule.vision_merge, schedule.sample
    if merge is not None:
        with patched(model, Schedule(vision_merge=merge)):
            patches, attended = encode(model, exam.pixels)
        exam = replace(exam, patches=patches, attended=attended)
    if sample is not None:
        frames = list(sample.groups(exam.pixels.shape[1], 1))
        exam = replace(exam, patches=exam.patches[:, frames], attended=exam.attended[:, frames])
    return exam


@torch.no_grad()
def encode(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """``patches`` and ``attended`` of an exam: pixels[n, F, 3, size, size]."""
    attended: list[Tensor] = []

    def see(module: nn.Module, args: tuple[Tensor], kwargs: object) -> None:
        attended.append(args[0])

    with Changes() as changes:
        changes.hook(_last_attention(model).q_proj.register_forward_pre_hook, see)
        patches = [patch_features(model, clip) for clip in pixels]
    return torch.stack(patches), torch.stack(attended)


def _last_attention(model: LlavaOnevisionForConditionalGeneration) -> Part:
    """The attention of the tower's last layer, whose output the model reads."""
    layers = [part for part in model.model.vision_tower.modules() if hasattr(part, "self_attn")]
    attention: Part = layers[-1].self_attn
    return attention


@torch.no_grad()
def answered(
    model: LlavaOnevisionForConditionalGeneration, exam: Exam, schedule: Schedule
) -> tuple[Tensor, float]:
    """Answer an exam under a schedule: bool [n], what is right; processor seconds of a prompt.

    The seconds are those of pooling, merging, selecting and the LLM.
    """
    seen = encoded_by(model, exam, schedule)
    with patched(model, schedule):
        start = time.process_time()
        right = right_answers(model, seen)
        return right, (time.process_time() - start) / len(exam)


@torch.no_grad()
def right_answers(
    model: LlavaOnevisionForConditionalGeneration, exam: Exam, batch: int = 100
) -> Tensor:
    """Run the model, patched or not, over an exam: bool [n], whether each answer is right.

    The tower does not run again: a schedule that changes what it gives has to encode the exam, see
    ``encoded_by``.
    """
    right = []
    for rows in torch.arange(len(exam)).split(batch):
        ids = exam.input_ids[rows]
        with _encoded(model, exam.patches[rows].flatten(0, 1), exam.attended[rows].flatten(0, 1)):
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values_videos=exam.pixels[rows],  # read only for the number of frames
                logits_to_keep=1,
                use_cache=False,
            ).logits
        right.append(logits[:, -1].argmax(dim=-1) == exam.answers[rows])
    return torch.cat(right)


@contextmanager
def _encoded(
    model: LlavaOnevisionForConditionalGeneration, patches: Tensor, attended: Tensor
) -> Iterator[None]:
    """Let tower and projector return ``patches``; pooling, merging and the rest run unchanged.

    Of the tower, queries and keys of the last layer are computed, for scores that read them.
    """
    core, attention = model.model, _last_attention(model)
    output = BaseModelOutputWithPooling(last_hidden_state=patches, hidden_states=(patches,))

    def tower(*args: object, **kwargs: object) -> BaseModelOutputWithPooling:
        attention.q_proj(attended)
        attention.k_proj(attended)
        return output

    with Changes() as changes:
        changes.replace(core.vision_tower, "forward", tower)
        changes.replace(core.multi_modal_projector, "forward", lambda x: x)
        yield
