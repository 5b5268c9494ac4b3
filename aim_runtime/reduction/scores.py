"""Ranking the candidates of a layer: every importance score that runs here, by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aim_runtime.reduction.chance import random_numbers
from aim_runtime.reduction.importance import pagerank_causal_importance, text_attention_importance
from aim_runtime.reduction.importance_kernel import token_importance


@dataclass(frozen=True)
class Attended:
    """One layer's attention and the choice to be made there.

    Args:
        query, key: [B, heads, n, d] and [B, kv_heads, n, d], after the rotary embedding.
        scaling: of q k^T in the layer.
        visual: bool [B, n], the candidates.
        candidates, stay: how many they are, and how many of them stay; int64 [B, 1] on the host
            where rows differ.
        padding: int64 [B], tokens of padding at the start of each row; None without any.
    """

    query: Tensor
    key: Tensor
    scaling: float
    visual: Tensor
    candidates: int | Tensor
    stay: int | Tensor
    padding: Tensor | None = None


Rank = Callable[[Attended], Tensor]

LAYER_IMPORTANCE: dict[str, Rank] = {}
"""Scores [B, n] of a layer's tokens, by the name that a schedule's ``prune.importance`` gives.

Those of candidates alone matter. No device sync; all work on meta.
"""


def ranks(name: str) -> Callable[[Rank], Rank]:
    """Register the code of a score of ``aim_cost.ops.scores`` under its name."""

    def registered(rank: Rank) -> Rank:
        LAYER_IMPORTANCE[name] = rank
        return rank

    return registered


@ranks("pagerank")
def _pagerank(at: Attended) -> Tensor:
    return token_importance(at.query, at.key, scaling=at.scaling, padding=at.padding)


@ranks("pagerank-causal")
def _pagerank_causal(at: Attended) -> Tensor:
    return pagerank_causal_importance(at.query, at.key, scaling=at.scaling, padding=at.padding)


@ranks("text-attention")
def _text_attention(at: Attended) -> Tensor:
    return text_attention_importance(at.query, at.key, scaling=at.scaling, padding=at.padding)


@ranks("random")
def _random(at: Attended) -> Tensor:
    """A draw by the number of candidates, so that a row fares alike in any batch."""
    rows = len(at.visual)
    if isinstance(at.candidates, int):
        drawn = random_numbers(rows, at.candidates)
    else:
        counts = at.candidates[:, 0].tolist()
        drawn = torch.zeros(rows, max(counts))
        for row, count in enumerate(counts):
            drawn[row, :count] = random_numbers(rows, count)[row]
    place = _place_among_candidates(at.visual).clamp(max=drawn.shape[1] - 1)
    return drawn.to(at.visual.device, non_blocking=True).gather(1, place)


@ranks("uniform")
def _uniform(at: Attended) -> Tensor:
    """1 for ``stay`` candidates at equal distances, 0 for the others."""
    place = _place_among_candidates(at.visual)
    candidates, stay = (
        x.clamp(min=1).to(place.device, non_blocking=True) if isinstance(x, Tensor) else x
        for x in (at.candidates, at.stay)
    )
    before, after = ((p * stay + candidates // 2) // candidates for p in (place, place + 1))
    return (after > before).float()


def _place_among_candidates(visual: Tensor) -> Tensor:
    """int64 [B, n]: how many candidates stand before each; of other tokens anything in range."""
    return (visual.cumsum(dim=1) - 1).clamp_(min=0)
