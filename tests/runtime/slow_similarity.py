"""Slow references of the ways to choose tokens by their cosines to one another."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.runtime.slow_selections import SlowItem, slow


def unit(x: Tensor) -> Tensor:
    return x.double() / x.double().norm(dim=-1, keepdim=True)


def greedily(item: SlowItem, gain: Callable[[int, list[int]], float], start: int) -> list[int]:
    """``keep`` tokens of the set at ``start``, each that which gains most beside those before."""
    chosen: list[int] = []
    while len(chosen) < item.keep:
        left = [i for i in range(start, start + item.each) if i not in chosen]
        gains = {i: gain(i, chosen) for i in left}
        best = max(left, key=lambda i: (gains[i], -i))
        others = [gains[i] for i in left if gains[i] != gains[best]]
        if others:
            item.decide((gains[best] - max(others)) / abs(gains[best]))
        chosen.append(best)
    return chosen


@slow("pairwise-cosine")
def pairwise_cosine(item: SlowItem) -> tuple[list[int], Tensor]:
    """Distances 1 - cosine: farthest from its nearest neighbour, then from those chosen."""
    x, kept = unit(item.features), []
    for start in range(0, len(x), item.each):

        def nearest(i: int, chosen: list[int], start: int = start) -> float:
            others = chosen or [j for j in range(start, start + item.each) if j != i]
            return min(1 - float(x[i] @ x[j]) for j in others)

        kept += greedily(item, nearest, start)
    return sorted(kept), item.features[sorted(kept)]


@slow("determinantal")
def determinantal(item: SlowItem) -> tuple[list[int], Tensor]:
    """The determinant itself, of the kernel of those chosen and one more."""
    x, text = unit(item.features), unit(item.text)
    relevance = [sum(float(v @ t) for t in text) / len(text) for v in x]
    least, most = min(relevance), max(relevance)
    r = torch.tensor([(v - least + 1e-6) / (most - least + 1e-6) for v in relevance]).double()
    kernel, kept = r[:, None] * (x @ x.T) * r, []

    def volume(places: list[int]) -> float:
        return float(torch.linalg.det(kernel[places][:, places])) if places else 1.0

    for start in range(0, len(x), item.each):
        kept += greedily(item, lambda i, chosen: volume([*chosen, i]) / volume(chosen), start)
    return sorted(kept), item.features[sorted(kept)]
