"""Scores of visual tokens inside the LLM: names, the ops that each adds, and whether it runs.

A score that runs has its entry here, its code in ``aim_runtime.reduction.scores`` under the same
name, and its slow reference in the tests. Nothing else lists the names.

FLOPs are those of the products that each method's released code computes; sorting, clustering
loops and elementwise work count zero, as everywhere. Sources: the papers and repositories named.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aim_cost.ops import formulas
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import BatchedProduct, Elementwise, Kind, Product
from aim_cost.ops.op import Op
from aim_cost.ops.reduction import fused_importance_ops, importance_ops

LISTED_BY = "aim-cost methods --scores"
"""The command that lists the names of scores."""

_PIVOTS = 8
_AnyScore = TypeVar("_AnyScore", bound="Score")


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
class Score:
    """A way to rank visual tokens.

    Args:
        name: what a schedule calls it.
        summary: what it looks at, in a phrase.
        source: method or paper.
        ops: what it adds to the graph, by the sizes where it is computed.
    """

    name: str
    summary: str
    source: str
    ops: Callable[[Any], list[Op]]


@dataclass(frozen=True)
class LayerScore(Score):
    """A way to rank visual tokens inside the LLM; ``ops`` takes a LayerSize.

    Args:
        flash: False when the scored layer must write its attention matrix.
        why_not_run: why ``aim_runtime`` has no code for it; empty where it has. A test holds both
            to each other.
    """

    flash: bool = True
    why_not_run: str = ""

    @property
    def runs(self) -> bool:
        """Whether ``aim_runtime`` has code for it."""
        return not self.why_not_run


def _nothing(size: LayerSize) -> list[Op]:
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


def by_name(*scores: _AnyScore) -> dict[str, _AnyScore]:
    """The scores by their names."""
    return {score.name: score for score in scores}


LAYER_SCORES = by_name(
    LayerScore("pagerank", "PageRank over the layer's attention, five steps", "AIM", _pagerank),
    LayerScore(
        "pagerank-causal",
        "one PageRank step, each column divided by the rows that see it",
        "ours",
        _pagerank_causal,
    ),
    LayerScore(
        "text-attention",
        "attention of the last prompt token, one row of q k^T",
        "ours, after FastV",
        _last_row,
    ),
    LayerScore(
        "eager-attention",
        "attention of the last token, read from the layer's own matrix",
        "FastV",
        _head_mean,
        flash=False,
        why_not_run="text-attention ranks the same, without that matrix",
    ),
    LayerScore(
        "next-layer-query",
        "attention of the last token under the next layer's q and k",
        "PyramidDrop",
        _next_layer_query,
        why_not_run="it needs the layer that follows",
    ),
    LayerScore(
        "rater-attention",
        "attention logits of all rows, text raters chosen",
        "SparseVLM",
        _all_rows,
        why_not_run="its raters are chosen before the first layer",
    ),
    LayerScore(
        "pivot-similarity",
        "similarity to 8 pivot tokens",
        "DART",
        _pivots,
        why_not_run="it needs what leaves the layer",
    ),
    LayerScore(
        "key-distances",
        "norms of keys, then distances among tokens",
        "PACT",
        _key_distances,
        why_not_run="it merges tokens into clusters, and how many depends on the image",
    ),
    LayerScore(
        "neighbour-cosine",
        "cosine to the same place of the frame before",
        "FrameFusion",
        _neighbours,
        why_not_run="it merges tokens inside the LLM, where tokens are only dropped here",
    ),
    LayerScore(
        "offline",
        "decided beforehand: nothing at run time",
        "VTW, FitPrune, HiDrop",
        _nothing,
        why_not_run="what was fitted or trained beforehand is not at hand",
    ),
    LayerScore("random", "drawn at random", "baseline", _nothing),
    LayerScore("uniform", "every k-th token", "baseline", _nothing),
)
"""Scores inside the LLM, by the name that a schedule's ``prune.importance`` gives."""
