"""own_score: a way of one's own to rank tokens inside the LLM, run, counted and priced."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from aim_cost.ops.op import Op
from aim_cost.ops.score import OWN
from aim_cost.ops.scores import LAYER_SCORES, LayerScore, LayerSize
from aim_runtime.reduction.scores import Attended, Choice, Rank, ranks
from aim_runtime.reduction.traced import DTYPES, traced_ops


def own_score(name: str, summary: str) -> Callable[[Rank], Rank]:
    """Register a function as ``prune ... score=NAME``, from Attended to scores [B, n].

    It is priced as it runs: its kernels are counted on the meta device. Registering a name of one's
    own again replaces it.
    Args: summary, what it looks at, in a phrase.
    Raises: ScheduleError for a name that a score of the project has.
    """
    LAYER_SCORES.require_free(name)

    def registered(rank: Rank) -> Rank:
        @lru_cache(maxsize=1024)
        def ops(size: LayerSize) -> list[Op]:
            at = _on_meta(size)
            return traced_ops(lambda: rank(at), "importance", size.layer, name)

        LAYER_SCORES[name] = LayerScore(name, summary, OWN, ops)
        return ranks(name)(rank)

    return registered


def _on_meta(size: LayerSize) -> Attended:
    text, batch, tokens = size.text, size.batch, size.tokens

    def empty(heads: int) -> Tensor:
        shape = (batch, heads, tokens, text.head_dim)
        return torch.empty(shape, device="meta", dtype=DTYPES[size.width])

    visual = torch.empty(batch, tokens, device="meta", dtype=torch.bool)
    candidates = tokens - size.text_tokens
    choice = Choice(visual, size.text_tokens, None, candidates, candidates - 1)
    query, key = empty(text.num_attention_heads), empty(text.num_key_value_heads)
    return Attended(choice, query, key, 1.0)
