"""First stage: vision tower and projector learn digits, inks and places from single frames.

It stands in for the image-text pretraining of SigLIP and for LLaVA's alignment of the projector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration

from aim_runtime.tiny.digits import load_pool
from aim_runtime.tiny.model import frame_features
from aim_runtime.tiny.scenes import INKS, NOTHING, PLACES, Scenes, draw_frames

_BATCH = 64
_VALIDATION_FRAMES = 256
_RAMP = 0.28  # share of the steps over which frames grow as hard as they get


@dataclass(frozen=True)
class _Read:
    """Logits of what stands at a token, or in a quadrant."""

    digit: Tensor
    ink: Tensor
    place: Tensor


class _Heads(nn.Module):
    """Linear read-outs, thrown away after the stage; the last class of two is "nothing"."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.digit = nn.Linear(width, 10 + 1)
        self.ink = nn.Linear(width, len(INKS) + 1)
        self.place = nn.Linear(width, len(PLACES))

    def forward(self, x: Tensor) -> _Read:
        return _Read(self.digit(x), self.ink(x), self.place(x))


class VisionStage:
    """Trains what stands before the decoder; see ``training.Stage``."""

    name = "vision"

    def __init__(
        self, model: LlavaOnevisionForConditionalGeneration, seed: int, steps: int
    ) -> None:
        inner = model.model
        width = model.config.text_config.hidden_size
        self.steps = steps
        self._model, self._seed = model, seed
        self._token, self._quadrant = _Heads(width), _Heads(width)
        self.module = nn.ModuleList(
            [inner.vision_tower, inner.multi_modal_projector, self._token, self._quadrant]
        )
        self.optimizers = (
            torch.optim.AdamW(
                self.module.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.02
            ),
        )

    def loss(self, step: int) -> Tensor:
        """Cross-entropies of all heads, summed."""
        difficulty = min(1.0, step / (_RAMP * self.steps))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        scenes = draw_frames(load_pool("train"), _BATCH, generator, difficulty=difficulty)
        by_token = _by_quadrant(frame_features(self._model, scenes.pixels))
        each = self._token(by_token), self._quadrant(by_token.mean(dim=2, keepdim=True))
        return sum(_cross_entropy(read, scenes) for read in each)

    @torch.no_grad()
    def validate(self) -> Mapping[str, float]:
        """Share of the quadrants with a digit whose digit, or ink, is read."""
        generator = torch.Generator().manual_seed(0)
        scenes = draw_frames(load_pool("validation"), _VALIDATION_FRAMES, generator)
        by_token = _by_quadrant(frame_features(self._model, scenes.pixels))
        read = self._quadrant(by_token.mean(dim=2))
        seen = scenes.digit != NOTHING
        digit, ink = (
            (logits.argmax(dim=-1) == truth)[seen].float().mean().item()
            for logits, truth in ((read.digit, scenes.digit), (read.ink, scenes.ink))
        )
        return {"accuracy": digit, "ink": ink}


def _by_quadrant(features: Tensor) -> Tensor:
    """[N, tokens, width] -> [N, 4, tokens / 4, width], quadrants in the order of PLACES."""
    side = int(features.shape[1] ** 0.5)
    grid = features.unflatten(1, (2, side // 2, 2, side // 2)).transpose(2, 3)
    return grid.flatten(3, 4).flatten(1, 2)


def _cross_entropy(read: _Read, scenes: Scenes) -> Tensor:
    """Mean over tokens, summed over digit, ink and place: logits [N, 4, t, classes]."""
    place = torch.arange(len(PLACES)).expand_as(scenes.digit)
    total = torch.zeros(())
    for logits, truth in ((read.digit, scenes.digit), (read.ink, scenes.ink), (read.place, place)):
        target = truth % logits.shape[-1]  # NOTHING, -1, becomes the last class
        target = target[:, :, None].expand(logits.shape[:-1])
        total = total + functional.cross_entropy(logits.flatten(0, -2), target.flatten())
    return total
