"""An exam: questions about clips that training never saw, encoded once for many schedules."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.vision_merge import VisionMerge
from aim_runtime.patching.patch import patched
from aim_runtime.patching.undo import Changes
from aim_runtime.tiny.model import frame_size, frame_tokens, patch_features
from aim_runtime.tiny.prompts import prompt_ids
from aim_runtime.tiny.questions import KINDS, ask, can_ask
from aim_runtime.tiny.scenes import draw_clips


@dataclass(frozen=True)
class Exam:
    """One question about each clip, the kinds in turn.

    Shapes: pixels[n, F, 3, 32, 32]; patches[n, F, 64, hidden], what the projector gives for each
    frame; input_ids[n, t]; answers[n], ids of words; kinds, n names.
    """

    pixels: Tensor
    patches: Tensor
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
    """Draw ``count`` clips of a split, ask one question about each, and encode them."""
    rng = np.random.default_rng(seed)
    names = tuple(KINDS)
    kinds: list[str] = []
    pixels, ids, answers = [], [], []
    while len(kinds) < count:
        clips = draw_clips(split, 100, frames, rng, size=frame_size(model))
        for clip in range(len(clips.digit)):
            kind = names[len(kinds) % len(names)]
            facts = (clips.digit[clip], clips.color[clip], clips.place[clip])
            if len(kinds) == count or not can_ask(kind, facts[0], facts[1]):
                continue
            words, answer = ask(kind, *facts, rng)
            pixels.append(torch.from_numpy(clips.pixels[clip]))
            ids.append(prompt_ids(words, frames * frame_tokens(model) + 1))
            answers.append(answer)
            kinds.append(kind)
    drawn = torch.stack(pixels)
    patches = _patches(model, drawn)
    return Exam(drawn, patches, torch.cat(ids), torch.tensor(answers), tuple(kinds))


@torch.no_grad()
def encoded_by(
    model: LlavaOnevisionForConditionalGeneration, exam: Exam, vision_merge: VisionMerge
) -> Exam:
    """The same exam, its clips encoded by a tower that merges."""
    with patched(model, Schedule(vision_merge=vision_merge)):
        return replace(exam, patches=_patches(model, exam.pixels))


def _patches(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    return torch.stack([patch_features(model, clip) for clip in pixels])


@torch.no_grad()
def right_answers(
    model: LlavaOnevisionForConditionalGeneration, exam: Exam, batch: int = 100
) -> Tensor:
    """Run the model, patched or not, over an exam: bool [n], whether each answer is right.

    The tower does not run again: what merges in it has to encode the exam, see ``encoded_by``.
    """
    right = []
    for rows in torch.arange(len(exam)).split(batch):
        ids, patches = exam.input_ids[rows], exam.patches[rows]
        # the pixels are read only for the number of frames
        pixels = torch.zeros(1).expand(exam.pixels[rows].shape)
        with _encoded(model, patches.flatten(0, 1)):
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values_videos=pixels.contiguous(),
                logits_to_keep=1,
                use_cache=False,
            ).logits
        right.append(logits[:, -1].argmax(dim=-1) == exam.answers[rows])
    return torch.cat(right)


@contextmanager
def _encoded(model: LlavaOnevisionForConditionalGeneration, patches: Tensor) -> Iterator[None]:
    """Let tower and projector return ``patches``; pooling, merging and the rest run unchanged."""
    core = model.model
    output = BaseModelOutputWithPooling(last_hidden_state=patches, hidden_states=(patches,))
    with Changes() as changes:
        changes.replace(core.vision_tower, "forward", lambda *args, **kwargs: output)
        changes.replace(core.multi_modal_projector, "forward", lambda x: x)
        yield
