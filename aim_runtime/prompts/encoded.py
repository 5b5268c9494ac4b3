"""Encoded: the images, or the videos, that a patched model has encoded last."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aim_runtime.errors import PatchError
from aim_runtime.models.visual import VisualItem

Items = tuple[VisualItem, ...]


@dataclass(frozen=True)
class Encoded:
    """The images, or the videos, that were encoded last.

    Args:
        items: they, as they were before merging.
        counts: of each size of groups that occurred, its tokens before merging and after each
            pass.
        places: int64 [tokens left] of each item: the place in it of each token that is left.
        features: [tokens left, hidden] of each item.
    Places and features are () where merged tokens are numbered anew: nobody needs them.
    """

    items: Items
    counts: dict[int, tuple[int, ...]]
    places: tuple[Tensor, ...]
    features: tuple[Tensor, ...]

    def require(self, features: Sequence[Tensor], numbers: Sequence[int]) -> None:
        """Raises: PatchError unless ``features`` are those of these items, by number."""
        for ready, number in zip(features, numbers, strict=True):
            mine = self.features[number]
            if ready is not mine and not torch.equal(ready, mine):
                raise features_of_another_run("features of another image or video than the last")


def features_of_another_run(got: str) -> PatchError:
    """The error for ready features that this patched model did not make for the prompt at hand."""
    return PatchError(
        "mm_encoder_outputs",
        expected="features of this prompt's images and videos, made by this patched model",
        got=got,
        fix="Pass pixel_values or pixel_values_videos.",
    )
