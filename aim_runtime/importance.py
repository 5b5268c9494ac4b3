"""Importance of every token: PageRank over a layer's attention.

Source: AIM, arXiv 2412.03248, section 3.2, as its released code computes it.
"""

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
) -> Tensor:
    """Score the tokens that enter a layer.

    M = softmax(scaling * q k^T / temperature), causal, in fp32; p starts uniform and becomes p M
    ``iterations`` times; the score is the root mean square of p over heads.

    Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], both after the rotary embedding
        -> [B, n] fp32 on the same device. Query heads share keys in groups of heads / kv_heads.
    Heads are taken one at a time, so one [B, n, n] matrix is alive, not ``heads`` of them. The
    product q k^T stays in the dtype of q. No device sync; works on meta.
    FLOPs as torch counts them: heads * n * n * (2 * d + 2 * iterations) a batch row.
    """
    batch, heads, tokens, _ = query.shape
    group = heads // key.shape[1]
    future = query.new_full((tokens, tokens), -torch.inf).triu_(1).expand(batch, -1, -1)
    uniform = query.new_full((batch, 1, tokens), 1 / tokens, dtype=torch.float32)
    squares = torch.zeros_like(uniform)
    for head in range(heads):
        # q[B, n, d] @ k[B, n, d]^T -> logits[B, n, n]; the mask rides along
        logits = torch.baddbmm(future, query[:, head], key[:, head // group].transpose(1, 2))
        # two divisions, as released: one factor rounds otherwise and moves small scores by 5e-5
        logits.div_(1 / scaling).div_(temperature)
        transition = logits.softmax(dim=-1, dtype=torch.float32)
        rank = uniform
        for _ in range(iterations):
            rank = torch.bmm(rank, transition)
        squares.addcmul_(rank, rank)
    return (squares / heads).sqrt_().squeeze(1)
