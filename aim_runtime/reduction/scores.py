"""Ranking the candidates of a layer: every importance score that runs here, by name."""

from collections.abc import Callable
from dataclasses import dataclass

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


def _from_attention(score: Callable[..., Tensor]) -> Callable[[Attended], Tensor]:
    def importance(at: Attended) -> Tensor:
        return score(at.query, at.key, scaling=at.scaling, padding=at.padding)

    return importance


def _random(at: Attended) -> Tensor:
    most = int(at.candidates.max()) if isinstance(at.candidates, Tensor) else at.candidates
    drawn = random_numbers(len(at.visual), most).to(at.visual.device, non_blocking=True)
    return drawn.gather(1, _place_among_candidates(at.visual).clamp(max=most - 1))


def _uniform(at: Attended) -> Tensor:
    """1 for ``stay`` candidates at equal distances, 0 for the others."""
    place = _place_among_candidates(at.visual)
    candidates, stay = (
        x.clamp(min=1).to(place.device, non_blocking=True) if isinstance(x, Tensor) else x
        for x in (at.candidates, at.stay)
    )
    before, after = ((p * stay + candidates // 2) // candidates for p in (place, place + 1))
    return (after > before).float()


LAYER_IMPORTANCE: dict[str, Callable[[Attended], Tensor]] = {
    "pagerank": _from_attention(token_importance),
    "pagerank-causal": _from_attention(pagerank_causal_importance),
    "text-attention": _from_attention(text_attention_importance),
    "random": _random,
    "uniform": _uniform,
}
"""Scores [B, n] of a layer's tokens, by the name that a schedule's ``prune.importance`` gives.

Those of candidates alone matter. No device sync; all work on meta.
"""


def _place_among_candidates(visual: Tensor) -> Tensor:
    """int64 [B, n]: how many candidates stand before each; of other tokens anything in range."""
    return (visual.cumsum(dim=1) - 1).clamp_(min=0)
