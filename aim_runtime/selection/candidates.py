"""Candidates: the visual tokens of equal images or videos, of which some stay. Kept: those."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aim_runtime.reduction.select import take_tokens
from aim_runtime.selection.tower import TowerAttention


@dataclass(frozen=True)
class Kept:
    """What stays of several items.

    Args:
        places: int64 [items, kept], ascending, where in its item each token stood.
        features: [items, kept, H].
    """

    places: Tensor
    features: Tensor


@dataclass(frozen=True)
class Candidates:
    """The visual tokens of equal images or videos, before some of them leave.

    Args:
        features: [items, tokens, H], as they would enter the LLM, frame after frame.
        sets: parts of an item that are ranked apart: 1, or its frames.
        frames: frames or crops of a set; 1 where crops differ in size.
        keep: tokens that stay of each set, at least one and not all.
        tower: of the vision tower, for scores that read it; else None.
        texts: [T, H] of each item, the text of its prompt, for scores that read it; else ().
    """

    features: Tensor
    sets: int
    frames: int
    keep: int
    tower: TowerAttention | None = None
    texts: tuple[Tensor, ...] = ()

    def in_sets(self, x: Tensor) -> Tensor:
        """x[items, tokens, ...] -> [items * sets, tokens of a set, ...]."""
        parts: Tensor = x.unflatten(1, (self.sets, -1))
        return parts.flatten(0, 1)

    def in_frames(self, x: Tensor) -> Tensor:
        """x[items, tokens, ...] -> [items, frames, tokens of a frame, ...]."""
        parts: Tensor = x.unflatten(1, (self.sets * self.frames, -1))
        return parts

    def attention(self) -> Tensor:
        """What each token receives in the tower, see ``TowerAttention``: [items, tokens]."""
        return self._read().received().reshape(self.features.shape[:2])

    def keys(self, *, each_head: bool = False) -> Tensor:
        """The tower's keys, the mean over heads or each head's in turn: [items, tokens, width]."""
        tower = self._read()
        keys = tower.keys_of_heads() if each_head else tower.keys()
        return keys.reshape(*self.features.shape[:2], -1)

    def best(self, scores: Tensor) -> Kept:
        """Keep the tokens of each set with the highest scores [items, tokens].

        Equal scores favour the earlier token.
        """
        order = self.in_sets(scores).argsort(dim=1, descending=True, stable=True)
        return self.kept(order[:, : self.keep])

    def kept(self, index: Tensor, features: Tensor | None = None) -> Kept:
        """Keep the tokens at int64 [items * sets, keep], places in a set, in any order.

        Args: features, [items * sets, keep, H] of those tokens, where they are not as before.
        """
        each = self.features.shape[1] // self.sets
        start = each * torch.arange(self.sets, device=index.device)[:, None]
        ascending, order = index.sort(dim=1)
        places = (ascending.unflatten(0, (-1, self.sets)) + start).flatten(1)
        if features is None:
            return Kept(places, take_tokens(self.features, places))
        changed = take_tokens(features, order).to(self.features.dtype)
        return Kept(places, changed.unflatten(0, (-1, self.sets)).flatten(1, 2))

    def _read(self) -> TowerAttention:
        assert self.tower is not None
        return self.tower


Choose = Callable[[Candidates], Kept]

SELECTIONS: dict[str, Choose] = {}
"""How tokens are chosen, by the name that a schedule's ``select.by`` gives.

No device sync; all work on meta.
"""


def selects(name: str) -> Callable[[Choose], Choose]:
    """Register the code of a score of ``aim_cost.ops.visual_scores`` under its name."""

    def registered(choose: Choose) -> Choose:
        SELECTIONS[name] = choose
        return choose

    return registered
