"""Importance of every token from a layer's attention: AIM's PageRank and what stands beside it.

Source of ``pagerank``: AIM, arXiv 2412.03248, section 3.2, as its released code computes it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

ITERATIONS = 5
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
    Heads are taken one at a time, so one [B, n, n] matrix is alive, not ``heads`` of them. The
    product q k^T stays in the dtype of q. No device sync; works on meta.
    FLOPs as torch counts them: heads * n * n * (2 * d + 2 * iterations) a batch row.
    """
    start = _uniform_rank(query, padding)
    squares = torch.zeros_like(start)
    for transition in _transitions(query, key, scaling, temperature, padding):
        rank = start
        for _ in range(iterations):
            rank = torch.bmm(rank, transition)
        squares.addcmul_(rank, rank)
    return (squares / query.shape[1]).sqrt_().squeeze(1)


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
    square over heads. Shapes, args, memory: as there; padding scores nothing of meaning. FLOPs as
    torch counts them: 2 * heads * n * n * d a batch row, those of q k^T.
    """
    tokens = query.shape[2]
    rows = torch.arange(tokens, 0, -1, device=query.device)
    squares = query.new_zeros(query.shape[0], tokens, dtype=torch.float32)
    for transition in _transitions(query, key, scaling, temperature, padding):
        score = transition.sum(dim=1) / rows
        squares.addcmul_(score, score)
    return (squares / query.shape[1]).sqrt_()


@torch.no_grad()
def text_attention_importance(
    query: Tensor, key: Tensor, *, scaling: float, padding: Tensor | None = None
) -> Tensor:
    """Score tokens by the attention that the last token of the prompt pays, mean over heads.

    Shapes, args: as ``pagerank_importance``; softmax in fp32, no temperature.
    FLOPs as torch counts them: 2 * heads * n * d a batch row, those of one row of q k^T.
    """
    # q[B, kv, heads / kv, d] @ k[B, kv, n, d]^T -> [B, kv, heads / kv, n]
    last = query[:, :, -1].unflatten(1, (key.shape[1], -1))
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


def _transitions(
    query: Tensor, key: Tensor, scaling: float, temperature: float, padding: Tensor | None
) -> Iterator[Tensor]:
    """softmax(scaling * q k^T / temperature) of each head in turn: [B, n, n] fp32, causal."""
    batch, heads, tokens, _ = query.shape
    group = heads // key.shape[1]
    hidden = query.new_full((tokens, tokens), -torch.inf).triu_(1).expand(batch, -1, -1)
    if padding is not None:
        # a token of padding sees itself, so that no row is empty
        alone = torch.eye(tokens, dtype=torch.bool, device=query.device)
        unseen = ~_real(tokens, padding)[:, None] & ~alone
        hidden = hidden.masked_fill(unseen, -torch.inf)
    for head in range(heads):
        # q[B, n, d] @ k[B, n, d]^T -> logits[B, n, n]; the mask rides along
        logits = torch.baddbmm(hidden, query[:, head], key[:, head // group].transpose(1, 2))
        # two divisions, as released: one factor rounds otherwise and moves small scores by 5e-5
        logits.div_(1 / scaling).div_(temperature)
        yield logits.softmax(dim=-1, dtype=torch.float32)


def _real(tokens: int, padding: Tensor) -> Tensor:
    """bool [B, n], True behind the padding."""
    return torch.arange(tokens, device=padding.device) >= padding[:, None]
