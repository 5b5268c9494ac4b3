"""Clips that are encoded once, with many questions each, for training and validation."""

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from aim_runtime.tiny.model import frame_features, frame_size
from aim_runtime.tiny.prompts import packed_logits
from aim_runtime.tiny.questions import KINDS, ask, can_ask
from aim_runtime.tiny.scenes import Clips, draw_clips


@torch.no_grad()
def clip_features(
    model: LlavaOnevisionForConditionalGeneration,
    split: str,
    clips: int,
    frames: int,
    rng: np.random.Generator,
) -> tuple[Clips, Tensor]:
    """Draw clips and encode them once: features[clips, frames, tokens, hidden]; no pixels."""
    parts, facts = [], []
    for start in range(0, clips, 100):
        drawn = draw_clips(split, min(100, clips - start), frames, rng, size=frame_size(model))
        pixels = torch.from_numpy(drawn.pixels)
        parts.append(frame_features(model, pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]))
        facts.append((drawn.digit, drawn.color, drawn.place))
    digit, color, place = (np.concatenate(x) for x in zip(*facts, strict=True))
    nothing = np.empty((0, frames, 3, 0, 0), np.float32)
    return Clips(nothing, digit, color, place), torch.cat(parts)


def packed_questions(
    model: LlavaOnevisionForConditionalGeneration,
    split: str,
    clips: int,
    rng: np.random.Generator,
    frames: int = 8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Clips that allow a question of every kind: features, questions[C, 6, 5], answers[C, 6]."""
    drawn, features = clip_features(model, split, 2 * clips, frames, rng)
    kept: list[int] = []
    questions, answers = [], []
    for clip in range(2 * clips):
        facts = (drawn.digit[clip], drawn.color[clip], drawn.place[clip])
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
