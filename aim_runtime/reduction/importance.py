"""Importance of every token from a layer's attention: AIM's PageRank and what stands beside it.

Source of ``pagerank``: AIM, arXiv 2412.03248, section 3.2, as its released code computes it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from aim_cost.ops import formulas
from aim_cost.ops.formulas import IMPORTANCE_ITERATIONS

ITERATIONS = IMPORTANCE_ITERATIONS
TEMPERATURE = 0.1


@torch.no_grad()
def pagerank_importance(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    iterations: int = ITERATIONS,
    temperature: float = TEMPERATURE,
    padding: Tensor | None = None,
) -> Tensor:
    """Score the tokens that enter a layer.

    M = softmax(scaling * q k^T / temperature), causal, in fp32; p starts uniform and becomes p M
    ``iterations`` times; the score is the root mean square of p over heads.

    Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], both after the rotary embedding
        -> [B, n] fp32 on the same device. Query heads share keys in groups of heads / kv_heads.
    Args: padding, int64 [B], tokens of padding at the start of each row: they score 0 and change
        no other score.
    M is made once, ``formulas.IMPORTANCE_ROWS`` rows of all heads at a time: memory is linear in n.
    The product q k^T stays in the dtype of q. No device sync; works on meta.
    FLOPs as torch counts them: B times ``formulas.importance_flops`` of a prompt.
    """
    start = _uniform_rank(query, padding)
    ranks = _power_steps(query, key, start, iterations, scaling, temperature, padding)
    return _root_mean_square(ranks)


@torch.no_grad()
def pagerank_causal_importance(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    temperature: float = TEMPERATURE,
    padding: Tensor | None = None,
) -> Tensor:
    """Score tokens by one PageRank step, each divided by the rows that see it under the mask.

    With M as in ``pagerank_importance`` a head's score of token j is the mean of M[i, j] over the
    rows i >= j, so that early tokens gain nothing from being seen more often; then the root mean
    square over heads. Shapes, args, memory, FLOPs: as there with one iteration; padding scores
    nothing of meaning.
    """
    batch, _, tokens, _ = query.shape
    start = query.new_ones(batch, 1, tokens, dtype=torch.float32)
    sums = _power_steps(query, key, start, 1, scaling, temperature, padding)
    rows = torch.arange(tokens, 0, -1, device=query.device)
    return _root_mean_square(sums / rows)


@torch.no_grad()
def text_attention_importance(
    query: Tensor, key: Tensor, *, scaling: float, padding: Tensor | None = None
) -> Tensor:
    """Score tokens by the attention that the last token of the prompt pays, mean over heads.

    Shapes, args: as ``pagerank_importance``; softmax in fp32, no temperature.
    FLOPs as torch counts them: 2 * heads * n * d a batch row, those of one row of q k^T.
    """
    # q[B, kv, heads / kv, d] @ k[B, kv, n, d]^T -> [B, kv, heads / kv, n]
    last: Tensor = query[:, :, -1].unflatten(1, (key.shape[1], -1))
    logits = (last @ key.transpose(2, 3)).float() * scaling
    if padding is not None:
        real = _real(key.shape[2], padding)
        logits = logits.masked_fill(~real[:, None, None], -torch.inf)
    return logits.softmax(dim=-1).mean(dim=(1, 2))


def _uniform_rank(query: Tensor, padding: Tensor | None) -> Tensor:
    """[B, 1, n] fp32, the same for all real tokens, 1 in total."""
    batch, _, tokens, _ = query.shape
    if padding is None:
        return query.new_full((batch, 1, tokens), 1 / tokens, dtype=torch.float32)
    real = _real(tokens, padding).float()
    return (real / (tokens - padding)[:, None]).unsqueeze(1)


def _power_steps(
    query: Tensor,
    key: Tensor,
    start: Tensor,
    iterations: int,
    scaling: float,
    temperature: float,
    padding: Tensor | None,
) -> Tensor:
    """start M^iterations of each head: start[B, 1, n] -> [B, heads, n], fp32.

    Row i of M reaches columns j <= i alone, so what enters a block of rows is known once all later
    rows are done: from the last block to the first, each is made, walked through, and dropped.
    """
    batch, heads, tokens, _ = query.shape
    ranks = start.new_zeros(batch, heads, iterations + 1, tokens)
    ranks[:, :, 0] = start
    lines = ranks.flatten(0, 1)
    for transition in causal_blocks(query, key, scaling, temperature, padding):
        _walk(lines, transition)
        del transition  # before the next one is made
    return ranks[:, :, -1]


def causal_blocks(
    query: Tensor, key: Tensor, scaling: float, temperature: float, padding: Tensor | None
) -> Iterator[Tensor]:
    """Blocks [B * heads, R, end] fp32 of M, the last rows first; each ends with column end - 1.

    Shapes, args: as ``pagerank_importance``.
    """
    tokens, shared_key = query.shape[2], key.flatten(0, 1)
    most = formulas.IMPORTANCE_ROWS
    future = query.new_full((min(most, tokens),) * 2, -torch.inf).triu_(1)
    for end in range(tokens, 0, -most):
        rows = query[:, :, max(0, end - most) : end]
        keys = shared_key[:, :end]
        yield _transition(rows, keys, future, scaling, temperature, padding)


def _transition(
    query: Tensor,
    key: Tensor,
    future: Tensor,
    scaling: float,
    temperature: float,
    padding: Tensor | None,
) -> Tensor:
    """A block of M: query[B, heads, R, d], key[B * kv_heads, end, d] -> [B * heads, R, end] fp32.

    The rows are the last R of those before ``end``. Args: future[>= R, >= R], -inf above the
    diagonal.
    """
    batch, heads, rows, dims = query.shape
    end, first = key.shape[1], key.shape[1] - rows
    # q[B * kv, heads / kv * R, d] @ k[B * kv, end, d]^T; contracted: d
    grouped = query.reshape(len(key), -1, dims)
    logits = torch.bmm(grouped, key.transpose(1, 2)).view(batch, heads, rows, end)
    logits[..., first:].add_(future[:rows, :rows])
    if padding is not None:
        # a token of padding sees itself, so that no row is empty
        column = torch.arange(end, device=padding.device)
        own = column[first:, None] == column
        logits.masked_fill_(~(_real(end, padding)[:, None, None] | own), -torch.inf)
    # two divisions, as released: one factor rounds otherwise and moves small scores by 5e-5
    logits.div_(1 / scaling).div_(temperature)
    logits = logits.float()  # the narrow ones are freed
    return torch.softmax(logits, dim=-1, out=logits).flatten(0, 1)


def _walk(ranks: Tensor, transition: Tensor) -> None:
    """Take all steps over a block of M [heads, R, end]: ranks[heads, iterations + 1, n], changed.

    ``ranks[:, t]`` holds p after t steps where no row is left to come, else what has come so far.
    """
    end, first = transition.shape[2], transition.shape[2] - transition.shape[1]
    inside, before = transition[:, :, first:], transition[:, :, :first]
    for step in range(ranks.shape[1] - 1):
        rank, following = ranks[:, step, None, first:end], ranks[:, step + 1, None, first:end]
        _add_product(following, rank, inside)
    if first:
        _add_product(ranks[:, 1:, :first], ranks[:, :-1, first:end], before)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right; ``baddbmm_`` would do the same, uncounted by torch's flop counter."""
    torch.baddbmm(total, left, right, out=total)


def _root_mean_square(ranks: Tensor) -> Tensor:
    """Over heads: [B, heads, n] -> [B, n]."""
    return ranks.square().mean(dim=1).sqrt_()


def _real(tokens: int, padding: Tensor) -> Tensor:
    """bool [B, n], True after the padding."""
    return torch.arange(tokens, device=padding.device) >= padding[:, None]
