"""Ops of token reduction: merging before the LLM, scoring and dropping inside it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from aim_cost.ops import formulas
from aim_cost.ops.count import Count
from aim_cost.ops.formulas import IMPORTANCE_ITERATIONS
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import BatchedProduct, Elementwise, FusedImportance, Importance
from aim_cost.ops.op import Op

_FLOAT32_BYTES = 4


def merge_ops(
    groups: Count,
    counts: Sequence[Count],
    hidden: Count,
    width: int,
    by: str = "similarity",
    levels: int = 0,
) -> list[Op]:
    """Ops of merging ``groups`` frames; ``counts``: tokens of one before and after each pass.

    Pairs that are not chosen by similarity cost no matching, only the averages. ``levels`` of
    DeepStack's features are averaged as the tokens are.
    """
    make = Kernels("merge", width)
    ops: list[Op] = []
    for step, (before, after) in enumerate(pairwise(counts)):
        if by == "similarity":
            ops += match_ops(make, groups, before, hidden, f"_{step}")
        sizes = groups * before * hidden, groups * after * hidden
        average = make.elementwise(f"average_{step}", Elementwise.AVERAGE, *sizes)
        ops.append(replace(average, times=1 + levels))
    return ops


def match_ops(
    make: Kernels, groups: Count, tokens: Count, hidden: Count, suffix: str = ""
) -> list[Op]:
    """Ops of matching the even ``tokens`` of each group with the odd ones, by cosine."""
    size, odd = groups * tokens * hidden, tokens // 2
    pairs = groups * (tokens - odd) * odd
    return [
        make.elementwise(f"normalise{suffix}", Elementwise.NORMALISE, size, size),
        Op(
            f"match{suffix}",
            make.phase,
            formulas.match_flops(groups, tokens, hidden),
            make.width * size,
            make.width * pairs,
            BatchedProduct(groups, tokens - odd, odd, hidden),
            make.layer,
        ),
        make.elementwise(f"best{suffix}", Elementwise.BEST, pairs, groups * (tokens - odd)),
    ]


def importance_ops(
    layer: int | None,
    batch: Count,
    tokens: Count,
    heads: Count,
    head_dim: Count,
    width: int,
    iterations: int = IMPORTANCE_ITERATIONS,
) -> list[Op]:
    """Ops of AIM's score over the ``tokens`` entering ``layer``, computed block by block of rows.

    A block is written as logits, then in float32. It is then read once; its part on the diagonal is
    read once per iteration.
    """
    diagonal, others = formulas.importance_entries(tokens)
    scores = batch * heads * (diagonal + others)
    reads = batch * heads * (iterations * diagonal + others)
    flops = formulas.importance_flops(batch, heads, tokens, head_dim, iterations)
    query_key = 2 * batch * heads * tokens * head_dim
    return [
        Op(
            "importance",
            "importance",
            flops,
            width * (query_key + scores) + _FLOAT32_BYTES * reads,
            (width + _FLOAT32_BYTES) * scores,
            Importance(tokens, batch, heads, head_dim),
            layer,
        )
    ]


def fused_importance_ops(
    layer: int | None,
    batch: Count,
    tokens: Count,
    heads: Count,
    key_value_heads: Count,
    head_dim: Count,
    width: int,
) -> list[Op]:
    """Ops of AIM's score over the ``tokens`` entering ``layer``, fused: no matrix is written.

    Each pass reads q and k; maxima, sums and ranks of every head are kept in float32.
    Source: aim_runtime.reduction.importance_triton.
    """
    iterations = IMPORTANCE_ITERATIONS
    flops = formulas.fused_importance_flops(batch, heads, tokens, head_dim, iterations)
    vector = _FLOAT32_BYTES * batch * heads * tokens
    query_key = width * batch * tokens * head_dim * (heads + key_value_heads)
    return [
        Op(
            FusedImportance.label,
            "importance",
            flops,
            (iterations + 1) * query_key + (3 * iterations + 1) * vector,
            (3 + iterations) * vector + _FLOAT32_BYTES * batch * tokens,
            FusedImportance(tokens, batch, heads, key_value_heads, head_dim),
            layer,
        )
    ]


def drop_ops(
    layer: int, batch: Count, kept: Count, hidden: Count, head_dim: Count, width: int
) -> list[Op]:
    """Gather of the tokens that enter ``layer``: hidden states, cos and sin of positions."""
    make = Kernels("llm.layers", width, layer)
    size = batch * kept * (hidden + 2 * head_dim)
    return [make.elementwise("gather", Elementwise.GATHER, size, size)]
