"""Scores that compare the visual tokens of a set with one another."""

from aim_cost.ops.kind import BatchedProduct, Steps
from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize, loop_op, visual_op


def pairs(size: VisualSize) -> list[Op]:
    """Products of all pairs of tokens of a set."""
    # x[sets, n, H] @ x[sets, n, H]^T -> [sets, n, n]
    kind = BatchedProduct(size.sets, size.tokens, size.tokens, size.hidden)
    flops = 2 * size.rows * size.tokens * size.hidden
    writes = size.rows * size.tokens
    return [visual_op("pairs", size, flops, 2 * size.rows * size.hidden, writes, kind)]


def _determinantal(size: VisualSize) -> list[Op]:
    """The kernel of all pairs, then ``kept`` steps that each touch all rows chosen so far."""
    kept, rows = size.kept, size.rows
    before = kept * (kept - 1) * rows
    loop = loop_op(
        "greedy", Steps(kept, 11), before // 2 + 4 * kept * rows, 4 * kept * rows, before
    )
    return [*pairs(size), loop]


_NO_CODE = "it has no code here yet"

SCORES = (
    VisualScore(
        "pairwise-cosine",
        "greedy max-min over all cosines",
        "DivPrune",
        pairs,
        across_sizes=True,
        why_not_run=_NO_CODE,
    ),
    VisualScore(
        "determinantal",
        "determinantal point process, step by step",
        "CDPruner",
        _determinantal,
        across_sizes=True,
        why_not_run=_NO_CODE,
    ),
)
