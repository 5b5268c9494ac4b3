"""Scores that read the attention of the vision tower."""

from dataclasses import replace

from aim_cost.ops import formulas
from aim_cost.ops.kind import BatchedProduct, Elementwise, Steps
from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.budgets import (
    contextual_tokens,
    duplicate_rounds,
    important_tokens,
)
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize, visual_op
from aim_cost.ops.visual_scores.similarity import pairs


def tower_attention(size: VisualSize) -> list[Op]:
    """The row of the class token in one layer of the tower; all rows of a tower without one."""
    heads, keys = size.vision.num_attention_heads, size.tower_tokens
    rows, head_dim = size.vision.class_tokens or keys, size.vision.hidden_size // heads
    # q[views, heads, rows, d] @ k[views, heads, keys, d]^T -> [views, heads, rows, keys]
    flops = formulas.attention_scores_flops(size.views, heads, rows, keys, head_dim)
    reads = size.views * (rows + keys) * size.vision.hidden_size
    kind = BatchedProduct(size.views * heads, rows, keys, head_dim)
    ops = []
    if size.vision.any_size:  # its queries and keys are turned once more
        turned = 2 * size.views * keys * size.vision.hidden_size
        ops = [visual_op("vision_rotary", size, 0, turned, turned, Elementwise.ROTARY)]
    writes = size.views * heads * rows * keys
    return [*ops, visual_op("vision_scores", size, flops, reads, writes, kind)]


def _with_contextual(size: VisualSize) -> list[Op]:
    """Cosines of the keys of what leaves to those of the contextual tokens, then the sums."""
    number, leave = contextual_tokens(size.kept), size.tokens - size.kept
    head_dim = size.vision.hidden_size // size.vision.num_attention_heads
    # k[sets, leave, d] @ k[sets, number, d]^T -> [sets, leave, number]
    flops = 2 * size.sets * leave * number * head_dim
    kind = BatchedProduct(size.sets, leave, number, head_dim)
    reads, writes = size.rows * head_dim, size.sets * leave * number
    moved, summed = size.sets * leave * size.hidden, size.sets * number * size.hidden
    return [
        *tower_attention(size),
        visual_op("contextual", size, flops, reads, writes, kind),
        visual_op("join", size, 0, moved + summed, summed, Elementwise.AVERAGE),
    ]


def _with_nearest(size: VisualSize) -> list[Op]:
    """Cosines of the keys of what stays to those of all, then sums weighted by attention."""
    rows, width = size.sets * size.kept, size.vision.hidden_size
    # k[sets, kept, w] @ k[sets, n, w]^T -> [sets, kept, n], which weights x[sets, n, H]
    cosines = BatchedProduct(size.sets, size.kept, size.tokens, width)
    sums = BatchedProduct(size.sets, size.kept, size.hidden, size.tokens)
    near, read = rows * size.tokens, (rows + size.rows) * width
    summed = rows * size.hidden
    reads = near + size.rows * size.hidden
    return [
        *tower_attention(size),
        visual_op("nearest", size, 2 * near * width, read, near, cosines),
        visual_op("weighted_sums", size, 2 * near * size.hidden, reads, summed, sums),
    ]


def _with_duplicates(size: VisualSize) -> list[Op]:
    """Cosines of all pairs of what is not important, then round after round."""
    number = important_tokens(size.kept)
    rest = replace(size, tokens=size.tokens - number)
    rounds, seen = 0, 0
    left = rest.tokens
    for leave in duplicate_rounds(left, size.kept - number):
        rounds, seen, left = rounds + 1, seen + left * left // 4, left - leave
    moved = size.sets * seen
    kind = Steps(rounds, _ROUND_KERNELS)
    return [*tower_attention(size), *pairs(rest), visual_op("rounds", size, 0, moved, moved, kind)]


_ROUND_KERNELS = 9
"""Kernels of one of VisPruner's rounds: indices, a gather, the largest, a sort, what stays."""

SCORES = (
    VisualScore(
        "vision-attention",
        "attention of the vision tower",
        "FasterVLM",
        tower_attention,
        reads_tower=True,
    ),
    VisualScore(
        "vision-attention-joined",
        "attention of the vision tower; others are joined by their keys",
        "VisionZip",
        _with_contextual,
        reads_tower=True,
    ),
    VisualScore(
        "vision-attention-pairs",
        "attention of the vision tower; nearest keys are merged",
        "PruMerge",
        _with_nearest,
        reads_tower=True,
    ),
    VisualScore(
        "vision-attention-spread",
        "the same, some tokens at equal steps",
        "PruMerge+",
        _with_nearest,
        reads_tower=True,
    ),
    VisualScore(
        "vision-attention-varied",
        "attention of the vision tower; duplicates leave",
        "VisPruner",
        _with_duplicates,
        reads_tower=True,
    ),
)
