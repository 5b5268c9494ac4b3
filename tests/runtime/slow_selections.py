"""A slow second opinion on each way to choose tokens before the LLM, item by item."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aim_runtime.reduction.chance import random_numbers


@dataclass(frozen=True)
class SlowTower:
    """The layer of the vision tower whose output is read, of one image or video.

    Args:
        query, key: [views, heads, n, d], class token first; pooled, as the model pools features.
        class_tokens: 0 or 1.
    """

    query: Tensor
    key: Tensor
    class_tokens: int
    pooled: Callable[[Tensor], Tensor]

    def received(self) -> Tensor:
        """[views, tokens]: what the class token, or every patch, attends to, view by view."""
        views = []
        for query, key in zip(self.query, self.key, strict=True):
            rows = []
            for q, k in zip(query, key, strict=True):
                matrix = (q @ k.T / q.shape[-1] ** 0.5).softmax(-1)
                rows.append(matrix[0] if self.class_tokens else matrix.mean(0))
            views.append(torch.stack(rows).mean(0))
        return self.pooled(torch.stack(views)[..., None])[..., 0]

    def keys(self) -> Tensor:
        """[views, tokens, d]: the mean over heads."""
        return self.pooled(self.key.mean(1))

    def wide_keys(self) -> Tensor:
        """[views, tokens, heads * d]."""
        return self.pooled(torch.cat(list(self.key.unbind(1)), dim=-1))


@dataclass(frozen=True)
class SlowItem:
    """One image or video.

    Args:
        features: [tokens, H], newlines left out.
        frames: or crops, of equal size unless the score does not care.
        sets: 1, or the frames, that are ranked apart.
        keep: of each set.
        tower: called where the score reads the tower.
        text: [T, H], the text of its prompt.
        decide: takes the relative distance of the closest decision.
    """

    features: Tensor
    frames: int
    sets: int
    keep: int
    tower: Callable[[], SlowTower]
    text: Tensor
    decide: Callable[[float], None]

    @property
    def each(self) -> int:
        """Tokens of a set."""
        return len(self.features) // self.sets

    def best(self, scores: list[float]) -> tuple[list[int], Tensor]:
        """The places of the highest scores of each set, and their features."""
        each, kept = len(scores) // self.sets, []
        for start in range(0, len(scores), each):
            order = sorted(range(start, start + each), key=lambda i: -scores[i])
            worst, loser = scores[order[self.keep - 1]], scores[order[self.keep]]
            if worst != loser:
                self.decide(abs((worst - loser) / worst) if worst else 1.0)
            kept += sorted(order[: self.keep])
        return kept, self.features[kept]


Slow = Callable[[SlowItem], tuple[list[int], Tensor]]
"""Places that stay, ascending, and what stands there."""

SLOW_SELECTIONS: dict[str, Slow] = {}


def slow(name: str) -> Callable[[Slow], Slow]:
    """Register the slow reference of a way to choose under its name."""

    def registered(choose: Slow) -> Slow:
        SLOW_SELECTIONS[name] = choose
        return choose

    return registered


@slow("random")
def random(item: SlowItem) -> tuple[list[int], Tensor]:
    each = len(item.features) // item.sets
    return item.best(random_numbers(1, each)[0].tolist() * item.sets)


@slow("uniform")
def uniform(item: SlowItem) -> tuple[list[int], Tensor]:
    """Cut a set into ``keep`` equal parts, and take the middle of each."""
    each = len(item.features) // item.sets
    kept = [
        start + int((part + 0.5) * each / item.keep)
        for start in range(0, len(item.features), each)
        for part in range(item.keep)
    ]
    return kept, item.features[kept]


@slow("pooled-grid")
def pooled_grid(item: SlowItem) -> tuple[list[int], Tensor]:
    """Each mean is over the rows and columns that its part touches."""
    each = len(item.features) // item.frames
    side = round(each**0.5)
    small = round((item.keep * item.sets / item.frames) ** 0.5)
    places, means = [], []
    for frame in range(item.frames):
        for row, column in itertools.product(range(small), repeat=2):
            rows = range(row * side // small, -(-(row + 1) * side // small))
            columns = range(column * side // small, -(-(column + 1) * side // small))
            part = [frame * each + r * side + c for r in rows for c in columns]
            means.append(item.features[part].mean(dim=0))
            middle = [int((line + 0.5) * side / small) for line in (row, column)]
            places.append(frame * each + middle[0] * side + middle[1])
    return places, torch.stack(means)
