"""Scores that compare the visual tokens of a set with one another."""

from aim_cost.ops.kind import BatchedProduct, Elementwise, Steps
from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize, loop_op, unit_op, visual_op


def pairs(size: VisualSize) -> list[Op]:
    """Products of all pairs of tokens of a set."""
    # x[sets, n, H] @ x[sets, n, H]^T -> [sets, n, n]
    kind = BatchedProduct(size.sets, size.tokens, size.tokens, size.hidden)
    flops = 2 * size.rows * size.tokens * size.hidden
    writes = size.rows * size.tokens
    return [visual_op("pairs", size, flops, 2 * size.rows * size.hidden, writes, kind)]


def _farthest(size: VisualSize) -> list[Op]:
    """All cosines, the first choice, and a step for each: argmin, gather, maximum, scatter."""
    matrix, rows = size.rows * size.tokens, size.rows
    steps = size.kept * rows
    return [
        unit_op(size),
        *pairs(size),
        visual_op("nearest", size, 0, matrix, rows, Elementwise.BEST),
        visual_op("greedy", size, 0, 4 * steps, 2 * steps, Steps(size.kept, 4)),
    ]


def _determinantal(size: VisualSize) -> list[Op]:
    """Relevance to the text, all cosines, and a step for each choice.

    Step i takes the row of the chosen token, its part along the i rows before, and its square from
    what is left of each token.
    """
    kept, rows = size.kept, size.rows
    text = size.items * size.text_tokens * size.hidden
    # r[sets, 1, i] @ rows[sets, i, n] -> [sets, 1, n], in sum over i < kept
    along = kept * (kept - 1) // 2 * rows
    return [
        unit_op(size),
        visual_op("unit_text", size, 0, text, text, Elementwise.NORMALISE),
        visual_op("mean_text", size, 0, text, size.items * size.hidden, Elementwise.AVERAGE),
        # x[items, n, H] @ t[items, H, 1] -> [items, n, 1]
        visual_op(
            "relevance",
            size,
            2 * rows * size.hidden,
            (rows + size.items) * size.hidden,
            rows,
            BatchedProduct(size.sets, size.tokens, 1, size.hidden),
        ),
        *pairs(size),
        loop_op("greedy", Steps(kept, 13), 11 * kept * rows + along, 7 * kept * rows, 2 * along),
    ]


SCORES = (
    VisualScore(
        "pairwise-cosine",
        "greedy max-min over all cosines",
        "DivPrune",
        _farthest,
        across_sizes=True,
    ),
    VisualScore(
        "determinantal",
        "determinantal point process, step by step, weighed by cosines to the text",
        "CDPruner",
        _determinantal,
        across_sizes=True,
        reads_text=True,
    ),
)
