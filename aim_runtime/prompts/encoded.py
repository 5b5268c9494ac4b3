"""Encoded: the images, or the videos, of a prompt, after merging or selecting."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aim_cost.schedules.trace import Ranked
from aim_runtime.errors import PatchError
from aim_runtime.models.visual import VisualItem

Items = tuple[VisualItem, ...]

Again = Callable[[Tensor], Tensor]
"""Does to other features of the same tokens what was done to the tokens of equal items.

From [items, tokens, width] to [items, left, width].
"""


@dataclass(frozen=True)
class Encoded:
    """The images, or the videos, of a prompt, as they were encoded and reduced.

    Args:
        items: they, as they were before.
        counts: of each size of groups that occurred, its tokens before merging and after each
            pass.
        places: int64 [tokens left] of each item: the place in it of each token that is left; ()
            where all are.
        selected: of each item what was ranked, and how many of it stayed; () without select.
        again: of the items that were reduced at once, in order: how many they are, and what does
            the same to other features of them; () where nothing was reduced.
    """

    items: Items
    counts: dict[int, tuple[int, ...]]
    places: tuple[Tensor, ...] = ()
    selected: tuple[tuple[Ranked, ...], ...] = ()
    again: tuple[tuple[int, Again], ...] = ()

    def standing(self, number: int) -> Tensor:
        """Where the tokens left of an item stand among its placeholders: int64 [tokens left]."""
        item = self.items[number]
        if not self.places:
            return torch.tensor(item.standing, device="cpu")
        places = self.places[number]
        if not item.missing:
            return places
        return torch.tensor(item.standing, device="cpu").to(places.device)[places]


def features_of_another_run(got: str) -> PatchError:
    """The error for ready features that this patched model did not make for the prompt at hand."""
    return PatchError(
        "mm_encoder_outputs",
        expected="features of this prompt's images and videos, made by this patched model",
        got=got,
        fix="Pass pixel_values or pixel_values_videos.",
    )
