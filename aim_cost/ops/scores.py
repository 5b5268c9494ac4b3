"""How methods rank visual tokens, and what that costs: names, ops, and whether flash stays on.

FLOPs are those of the products that each method's released code computes; sorting, clustering
loops and elementwise work count zero, as everywhere. Sources: the papers and repositories named.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aim_cost.ops import formulas
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import BatchedProduct, Elementwise, Kind, Product
from aim_cost.ops.op import Op
from aim_cost.ops.reduction import fused_importance_ops, importance_ops

_PIVOTS = 8


@dataclass(frozen=True)
class LayerSize:
    """Where a score is computed inside the LLM: ``tokens`` entering ``layer`` of ``text``.

    Args: fused, whether AIM's score is that of the fused kernels.
    """

    layer: int | None
    batch: Count
    tokens: Count
    text: Any
    width: int
    fused: bool = False


@dataclass(frozen=True)
class VisualSize:
    """Where a score is computed before the LLM.

    Args:
        groups: frames or crops of all prompts, ``patches`` each in the vision tower.
        tokens: visual tokens of one prompt that are ranked; kept: those that stay.
    """

    batch: Count
    groups: Count
    patches: Count
    tokens: Count
    kept: Count
    vision: Any
    hidden: Count
    width: int


@dataclass(frozen=True)
class Score:
    """A way to rank visual tokens.

    Args:
        summary: what it looks at, in a phrase.
        source: method or paper.
        ops: what it adds to the graph.
        flash: False when the scored layer must write its attention matrix.
        runs: whether ``aim_runtime`` has code for it; a test holds both to each other.
    """

    summary: str
    source: str
    ops: Callable[[Any], list[Op]]
    flash: bool = True
    runs: bool = False


def _nothing(size: LayerSize | VisualSize) -> list[Op]:
    del size
    return []


def _op(size: LayerSize, flops: Count, reads: Count, writes: Count, kind: Kind) -> list[Op]:
    width = size.width
    return [Op("score", "importance", flops, width * reads, width * writes, kind, size.layer)]


def _pagerank(size: LayerSize) -> list[Op]:
    text = size.text
    heads, head_dim = text.num_attention_heads, text.head_dim
    if size.fused:
        sizes = (size.tokens, heads, text.num_key_value_heads, head_dim, size.width)
        return fused_importance_ops(size.layer, size.batch, *sizes)
    return importance_ops(size.layer, size.batch, size.tokens, heads, head_dim, size.width)


def _pagerank_causal(size: LayerSize) -> list[Op]:
    """One step, so that each column is summed over its rows."""
    text = size.text
    heads, head_dim = text.num_attention_heads, text.head_dim
    return importance_ops(size.layer, size.batch, size.tokens, heads, head_dim, size.width, 1)


def _last_row(size: LayerSize) -> list[Op]:
    text = size.text
    heads, head_dim = text.num_attention_heads, text.head_dim
    # q[B, h, 1, d] @ k[B, h, n, d]^T -> [B, h, 1, n]
    flops = formulas.attention_scores_flops(size.batch, heads, 1, size.tokens, head_dim)
    keys = size.batch * size.tokens * text.key_value_dim
    scores = size.batch * heads * size.tokens
    kind = BatchedProduct(size.batch * heads, 1, size.tokens, head_dim)
    return _op(size, flops, keys, scores, kind)


def _head_mean(size: LayerSize) -> list[Op]:
    make = Kernels("importance", size.width, size.layer)
    matrix = size.batch * size.text.num_attention_heads * size.tokens * size.tokens
    return [
        make.elementwise(
            "head_mean", Elementwise.COPY, matrix, size.batch * size.tokens * size.tokens
        )
    ]


def _next_layer_query(size: LayerSize) -> list[Op]:
    make = Kernels("importance", size.width, size.layer)
    text, rows = size.text, size.batch * size.tokens
    projections = [
        make.linear("score_q_proj", rows, text.hidden_size, text.query_dim, text.has_qkv_bias),
        make.linear("score_k_proj", rows, text.hidden_size, text.key_value_dim, text.has_qkv_bias),
    ]
    return [*projections, *_last_row(size)]


def _all_rows(size: LayerSize) -> list[Op]:
    text = size.text
    heads, head_dim, tokens = text.num_attention_heads, text.head_dim, size.tokens
    flops = formulas.attention_scores_flops(size.batch, heads, tokens, tokens, head_dim)
    rows = size.batch * tokens
    return _op(
        size,
        flops,
        rows * (text.query_dim + text.key_value_dim),
        size.batch * heads * tokens * tokens,
        BatchedProduct(size.batch * heads, tokens, tokens, head_dim),
    )


def _pivots(size: LayerSize) -> list[Op]:
    hidden, rows = size.text.hidden_size, size.batch * size.tokens
    flops = formulas.linear_flops(rows, hidden, _PIVOTS)
    kind = Product(rows, _PIVOTS, hidden)
    return _op(size, flops, rows * hidden, rows * _PIVOTS, kind)


def _key_distances(size: LayerSize) -> list[Op]:
    """Distances among all tokens that enter: an upper bound, the method clusters what it keeps."""
    width = size.text.key_value_dim
    flops = 2 * size.batch * size.tokens * size.tokens * width
    rows = size.batch * size.tokens
    kind = BatchedProduct(size.batch, size.tokens, size.tokens, width)
    return _op(size, flops, 2 * rows * width, rows * size.tokens, kind)


def _neighbours(size: LayerSize) -> list[Op]:
    rows, hidden = size.batch * size.tokens, size.text.hidden_size
    return _op(size, 2 * rows * hidden, 2 * rows * hidden, rows, Elementwise.COPY)


LAYER_SCORES = {
    "pagerank": Score(
        "PageRank over the layer's attention, five steps", "AIM", _pagerank, runs=True
    ),
    "pagerank-causal": Score(
        "one PageRank step, each column divided by the rows that see it",
        "ours",
        _pagerank_causal,
        runs=True,
    ),
    "text-attention": Score(
        "attention of the last prompt token, one row of q k^T",
        "ours, after FastV",
        _last_row,
        runs=True,
    ),
    "eager-attention": Score(
        "attention of the last token, read from the layer's own matrix", "FastV", _head_mean, False
    ),
    "next-layer-query": Score(
        "attention of the last token under the next layer's q and k",
        "PyramidDrop",
        _next_layer_query,
    ),
    "rater-attention": Score(
        "attention logits of all rows, text raters chosen", "SparseVLM", _all_rows
    ),
    "pivot-similarity": Score("similarity to 8 pivot tokens", "DART", _pivots),
    "key-distances": Score("norms of keys, then distances among tokens", "PACT", _key_distances),
    "neighbour-cosine": Score(
        "cosine to the same place of the frame before", "FrameFusion", _neighbours
    ),
    "offline": Score("decided beforehand: nothing at run time", "VTW, FitPrune, HiDrop", _nothing),
    "random": Score("drawn at random", "baseline", _nothing, runs=True),
    "uniform": Score("every k-th token", "baseline", _nothing, runs=True),
}
"""Scores inside the LLM, by the name that a schedule's ``prune.importance`` gives."""


def _visual_op(
    name: str, size: VisualSize, flops: Count, reads: Count, writes: Count, kind: Kind
) -> list[Op]:
    return [Op(name, "merge", flops, size.width * reads, size.width * writes, kind)]


def _vision_attention(size: VisualSize) -> list[Op]:
    """The matrix of one vision layer, written beside its flash attention."""
    heads, hidden = size.vision.num_attention_heads, size.vision.hidden_size
    sizes = (size.groups, heads, size.patches, size.patches, hidden // heads)
    flops = formulas.attention_scores_flops(*sizes)
    scores = size.groups * heads * size.patches * size.patches
    kind = BatchedProduct(size.groups * heads, size.patches, size.patches, hidden // heads)
    return _visual_op(
        "vision_scores", size, flops, 2 * size.groups * size.patches * hidden, scores, kind
    )


def _pairs(size: VisualSize) -> list[Op]:
    # x[B, N, H] @ x[B, N, H]^T -> [B, N, N]
    rows, tokens = size.batch * size.tokens, size.tokens
    kind = BatchedProduct(size.batch, tokens, tokens, size.hidden)
    flops = 2 * rows * tokens * size.hidden
    return _visual_op("pairs", size, flops, 2 * rows * size.hidden, rows * tokens, kind)


def _vision_attention_and_pairs(size: VisualSize) -> list[Op]:
    return [*_vision_attention(size), *_pairs(size)]


def _determinantal(size: VisualSize) -> list[Op]:
    """The kernel of all pairs, then ``kept`` steps that each touch all rows chosen so far."""
    steps = size.batch * size.kept * size.kept * size.tokens
    return [
        *_pairs(size),
        *_visual_op("steps", size, steps, steps, size.batch * size.tokens, Elementwise.COPY),
    ]


def _adjacent(size: VisualSize) -> list[Op]:
    rows = size.batch * size.tokens
    flops = 2 * rows * size.hidden
    return _visual_op("adjacent", size, flops, 2 * rows * size.hidden, rows, Elementwise.COPY)


def _centres(size: VisualSize) -> list[Op]:
    rows = size.batch * size.tokens
    flops = 4 * rows * size.hidden
    return _visual_op("centres", size, flops, 2 * rows * size.hidden, rows, Elementwise.COPY)


def _pairs_in_frames(size: VisualSize) -> list[Op]:
    tokens = size.batch * size.tokens // size.groups
    rows = size.batch * size.tokens
    kind = BatchedProduct(size.groups, tokens, tokens, size.hidden)
    flops = 2 * rows * tokens * size.hidden
    return _visual_op("frame_pairs", size, flops, 2 * rows * size.hidden, rows * tokens, kind)


def _attention_and_frames(size: VisualSize) -> list[Op]:
    return [*_vision_attention(size), *_pairs_in_frames(size)]


VISUAL_SCORES = {
    "vision-attention": Score(
        "attention of the vision tower", "FasterVLM, VisionZip", _vision_attention
    ),
    "vision-attention-pairs": Score(
        "attention of the vision tower and similarity of keys",
        "PruMerge",
        _vision_attention_and_pairs,
    ),
    "vision-attention-density": Score(
        "attention of the vision tower and density in each frame",
        "FastVID, HoliTom, FlashVID",
        _attention_and_frames,
    ),
    "pairwise-cosine": Score("greedy max-min over all cosines", "DivPrune", _pairs),
    "determinantal": Score("determinantal point process, step by step", "CDPruner", _determinantal),
    "adjacent-cosine": Score(
        "cosine to the same place of the frame before", "DyCoke, EVS", _adjacent
    ),
    "frame-centres": Score("distance to the centres of frame and video", "VidCom2", _centres),
    "frame-density": Score("density clustering in each frame", "PruneVid", _pairs_in_frames),
    "random": Score("drawn at random", "baseline", _nothing),
    "uniform": Score("every k-th token", "baseline", _nothing),
}
"""Scores before the LLM, by the name that a schedule's ``select.by`` gives."""
