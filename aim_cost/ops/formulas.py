"""FLOPs of matrix products, as pure functions; each docstring names the contracted dimension.

Ints give an int, sympy symbols an expression. 2 FLOPs per multiply-add, as
torch.utils.flop_counter counts. Not counted: biases, scaling, softmax, norms, activations, sorting,
causal skipping (attention is counted full).
"""

from aim_cost.ops.count import Count

IMPORTANCE_ITERATIONS = 5
"""Power iterations of AIM's importance score (arXiv 2412.03248, released code)."""

IMPORTANCE_ROWS = 256
"""Rows of the matrix of AIM's score that are made at once; even.

The largest power of two with which the score needs no more memory than the MLP of the same layer,
in every preset and for any prompt.
"""


def linear_flops(rows: Count, inputs: Count, outputs: Count) -> Count:
    """FLOPs of a linear layer.

    Shapes: x[rows, inputs] @ w[inputs, outputs]; contracted: inputs.
    Source: torch.utils.flop_counter.mm_flop.
    """
    return 2 * rows * inputs * outputs


def attention_scores_flops(
    batch: Count, heads: Count, queries: Count, keys: Count, head_dim: Count
) -> Count:
    """FLOPs of q @ k^T of one layer.

    Shapes: q[batch, heads, queries, head_dim] @ k[batch, heads, keys, head_dim] ->
    scores[batch, heads, queries, keys]; contracted: head_dim. Grouped keys are shared, not fewer.
    Source: Vaswani et al. 2017, eq. 1; torch.utils.flop_counter.sdpa_flop.
    """
    return 2 * batch * heads * queries * keys * head_dim


def attention_values_flops(
    batch: Count, heads: Count, queries: Count, keys: Count, head_dim: Count
) -> Count:
    """FLOPs of scores @ v of one layer.

    Shapes: scores[batch, heads, queries, keys] @ v[batch, heads, keys, head_dim]; contracted: keys.
    Source: as attention_scores_flops.
    """
    return 2 * batch * heads * queries * keys * head_dim


def match_flops(groups: Count, tokens: Count, hidden: Count) -> Count:
    """FLOPs of one merging pass: cosine similarity of even against odd tokens.

    Shapes: a[groups, ceil(tokens / 2), hidden] @ b[groups, floor(tokens / 2), hidden]^T;
    contracted: hidden.
    Source: AIM section 3.1 (ToMe's bipartite matching, per frame).
    """
    odd = tokens // 2
    return 2 * groups * (tokens - odd) * odd * hidden


def importance_entries(tokens: Count) -> tuple[Count, Count]:
    """Entries of one head's causal matrix that AIM's score computes, by blocks of rows.

    Rows are taken IMPORTANCE_ROWS at a time, columns up to the last row of a block. Of whole blocks
    k and the r rows that are left, k R^2 + r^2 and R^2 k (k - 1) / 2 + k R r; in sum n^2 for
    n <= R, about n^2 / 2 for many blocks.
    Source: aim_runtime.reduction.importance.
    """
    rows = IMPORTANCE_ROWS
    blocks = tokens // rows
    rest = tokens - blocks * rows
    diagonal = blocks * rows**2 + rest**2
    return diagonal, blocks * (blocks - 1) * (rows**2 // 2) + blocks * rows * rest


def importance_flops(
    batch: Count, heads: Count, tokens: Count, head_dim: Count, iterations: Count
) -> Count:
    """FLOPs of AIM's importance score at one layer, computed block by block of rows.

    Shapes, of a block: q[heads, R, head_dim] @ k^T -> m[heads, R, end]; contracted: head_dim; then
    p[heads, iterations, R] @ m; contracted: R. Columns after a block are not computed.
    Source: AIM section 3.2 (5 iterations); aim_runtime.reduction.importance.
    """
    diagonal, others = importance_entries(tokens)
    return 2 * batch * heads * (head_dim + iterations) * (diagonal + others)


def fused_importance_flops(
    batch: Count, heads: Count, tokens: Count, head_dim: Count, iterations: Count
) -> Count:
    """FLOPs of the same score by kernels that never write the matrix.

    One pass for the sums of its rows, then one pass an iteration; each computes q k^T again.
    Source: the formula that aim_runtime.reduction.importance_triton registers with torch's
    flop_counter.
    """
    scores = attention_scores_flops(batch, heads, tokens, tokens, head_dim)
    return (iterations + 1) * scores + iterations * 2 * batch * heads * tokens * tokens
