"""Scores of visual tokens inside the LLM: names, the ops that each adds, and whether it runs.

A score that runs has its entry here, its code in ``aim_runtime.reduction.scores`` under the same
name, and its slow reference in the tests. Nothing else lists the names.

FLOPs are those of the products that each method's released code computes; sorting, clustering
loops and elementwise work count zero, as everywhere. Sources: the papers and repositories named.
"""

from dataclasses import dataclass
from typing import Any

from aim_cost.ops import formulas
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import BatchedProduct, Elementwise, Kind
from aim_cost.ops.op import Op
from aim_cost.ops.reduction import fused_importance_ops, importance_ops
from aim_cost.ops.score import Score, by_name

PIVOTS = 4
"""Pivots of DART among the visual tokens, and as many among the text."""


@dataclass(frozen=True)
class LayerSize:
    """Where a score is computed inside the LLM: ``tokens`` entering ``layer`` of ``text``.

    Args:
        text_tokens: those of them that are text, protected.
        prompt_tokens: tokens entering the LLM.
        first: whether nothing was ranked before.
        fused: whether AIM's score is that of the fused kernels.
    """

    layer: int | None
    batch: Count
    tokens: Count
    text: Any
    width: int
    text_tokens: Count
    prompt_tokens: Count
    first: bool = True
    fused: bool = False


@dataclass(frozen=True)
class LayerScore(Score):
    """A way to rank visual tokens inside the LLM; ``ops`` takes a LayerSize.

    Args:
        flash: False when the scored layer must write its attention matrix.
        whole_layer: whether it ranks by what leaves the layer, so that no token can leave inside
            it.
    """

    flash: bool = True
    whole_layer: bool = False


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
    """Norm and keys of all tokens under the next layer, and the query of the last one."""
    make = Kernels("importance", size.width, size.layer)
    text, rows, bias = size.text, size.batch * size.tokens, size.text.has_qkv_bias
    hidden = text.hidden_size
    query, key = size.batch * text.query_dim, rows * text.key_value_dim
    norms = [
        make.elementwise("score_q_norm", Elementwise.RMS_NORM, query, query),
        make.elementwise("score_k_norm", Elementwise.RMS_NORM, key, key),
    ]
    return [
        make.elementwise("score_norm", Elementwise.RMS_NORM, rows * hidden, rows * hidden),
        make.linear("score_q_proj", size.batch, hidden, text.query_dim, bias),
        make.linear("score_k_proj", rows, hidden, text.key_value_dim, bias),
        *(norms if text.has_head_norms else ()),
        make.elementwise(
            "score_rotary",
            Elementwise.ROTARY,
            query + key + 2 * size.tokens * text.head_dim,
            query + key,
        ),
        *_last_row(size),
    ]


def _rater_rows(size: LayerSize) -> list[Op]:
    """Rows of the text tokens; once, how visual tokens share themselves among these."""
    text, rows, batch = size.text, size.text_tokens, size.batch
    make, raters = Kernels("importance", size.width, size.layer), []
    if size.first:
        # x[B, n, H] @ t[B, T, H]^T -> [B, n, T]
        prompt, hidden = size.prompt_tokens, text.hidden_size
        raters = [
            Op(
                "raters",
                "importance",
                2 * batch * prompt * rows * hidden,
                size.width * batch * (prompt + rows) * hidden,
                size.width * batch * prompt * rows,
                BatchedProduct(batch, prompt, rows, hidden),
                size.layer,
            ),
            make.elementwise("shares", Elementwise.SOFTMAX, batch * prompt * rows, batch * rows),
        ]
    return [*raters, *_text_rows(size)]


def _text_rows(size: LayerSize) -> list[Op]:
    """Rows of the text tokens, and what they say of each token."""
    text, rows, batch = size.text, size.text_tokens, size.batch
    heads, head_dim = text.num_attention_heads, text.head_dim
    make = Kernels("importance", size.width, size.layer)
    # q[B, h, T, d] @ k[B, h, n, d]^T -> [B, h, T, n]
    flops = formulas.attention_scores_flops(batch, heads, rows, size.tokens, head_dim)
    reads = batch * (rows * text.query_dim + size.tokens * text.key_value_dim)
    kind = BatchedProduct(batch * heads, rows, size.tokens, head_dim)
    scores = batch * heads * rows * size.tokens
    return [
        *_op(size, flops, reads, scores, kind),
        make.elementwise("score_softmax", Elementwise.SOFTMAX, scores, scores),
        make.elementwise("mean", Elementwise.REDUCTION, scores, batch * size.tokens),
    ]


def _columns(size: LayerSize) -> list[Op]:
    """All rows by blocks, as AIM's score makes them, and their sums."""
    text = size.text
    heads, head_dim = text.num_attention_heads, text.head_dim
    return importance_ops(size.layer, size.batch, size.tokens, heads, head_dim, size.width, 0)


def _pivots(size: LayerSize) -> list[Op]:
    """Norms of keys and states, the cosines to all pivots, and a turn of each pivot."""
    make = Kernels("importance", size.width, size.layer)
    hidden, rows, pivots = size.text.hidden_size, size.batch * size.tokens, 2 * PIVOTS
    # p[B, 8, H] @ x[B, n, H]^T -> [B, 8, n]
    kind = BatchedProduct(size.batch, pivots, size.tokens, hidden)
    flops = 2 * size.batch * pivots * size.tokens * hidden
    reads = (rows + size.batch * pivots) * hidden
    return [
        make.elementwise("key_norms", Elementwise.REDUCTION, rows * size.text.key_value_dim, rows),
        make.elementwise("score_norm", Elementwise.RMS_NORM, rows * hidden, rows * hidden),
        make.elementwise("unit", Elementwise.NORMALISE, rows * hidden, rows * hidden),
        *_op(size, flops, reads, rows * pivots, kind),
        *(
            make.elementwise(f"turn_{turn}_{step}", Elementwise.COPY, rows, rows)
            for turn in range(pivots)
            for step in ("free", "sort", "rank", "take")
        ),
    ]


def _change(size: LayerSize) -> list[Op]:
    """What the layer added to each hidden state, and its length."""
    make = Kernels("importance", size.width, size.layer)
    states = size.batch * size.tokens * size.text.hidden_size
    return [
        make.elementwise("difference", Elementwise.ADD, 2 * states, states),
        make.elementwise("length", Elementwise.REDUCTION, states, size.batch * size.tokens),
    ]


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
        "FastV",
        _last_row,
    ),
    LayerScore(
        "eager-attention",
        "attention of the last token, read from the layer's own matrix",
        "FastV as released",
        _head_mean,
        flash=False,
        why_not_run="text-attention keeps the same tokens, without that matrix",
    ),
    LayerScore(
        "next-layer-query",
        "attention of the last token under the next layer's q and k",
        "PyramidDrop",
        _next_layer_query,
        whole_layer=True,
    ),
    LayerScore(
        "rater-attention",
        "attention of the text tokens that are most like the image",
        "SparseVLM",
        _rater_rows,
    ),
    LayerScore(
        "question-attention",
        "the most attention that a text token after the video pays",
        "PruneVid",
        _text_rows,
    ),
    LayerScore(
        "attention-columns",
        "attention received from the image, times that from the text after it",
        "FitPrune",
        _columns,
    ),
    LayerScore(
        "pivot-similarity",
        "8 pivots by norms of keys, and what is least like each of them",
        "DART",
        _pivots,
        whole_layer=True,
    ),
    LayerScore(
        "layer-change",
        "how far the layer moved a token's hidden state",
        "V2Drop",
        _change,
        whole_layer=True,
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
        "VTW, HiDrop",
        _nothing,
        why_not_run="what was fitted or trained beforehand is not at hand",
    ),
    LayerScore("random", "drawn at random", "baseline", _nothing),
    LayerScore("uniform", "every k-th token", "baseline", _nothing),
)
"""Scores inside the LLM, by the name that a schedule's ``prune.importance`` gives."""
