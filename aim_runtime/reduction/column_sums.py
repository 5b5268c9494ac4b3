"""FitPrune's score: the attention that visual tokens receive from one another and from the text.

Source: FitPrune, arXiv 2409.10197, as its released code computes it.
"""

import torch
from torch import Tensor

from aim_runtime.reduction.importance import causal_blocks


@torch.no_grad()
def column_importance(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    question: Tensor,
    visual: Tensor,
    padding: Tensor | None = None,
) -> Tensor:
    """Score tokens by the product of two sums over the rows of softmax(scaling * q k^T), causal.

    Each entry is the greatest over heads; one sum is over the rows of visual tokens, the other over
    those of the question.
    Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], both after the rotary embedding;
        question, visual[B, n] bool -> [B, n] fp32.
    Args: padding, int64 [B], tokens of padding at the start of each row.
    ``formulas.IMPORTANCE_ROWS`` rows are made at a time: memory is linear in n. Softmax in fp32.
    FLOPs as torch counts them: B times ``formulas.importance_flops`` without iterations.
    """
    sums = {name: query.new_zeros(visual.shape, dtype=torch.float32) for name in ("own", "cross")}
    for attention in causal_blocks(query, key, scaling, 1, padding):
        strongest = attention.unflatten(0, query.shape[:2]).amax(dim=1)  # [B, R, end]
        del attention  # before the next one is made
        end = strongest.shape[2]
        rows = slice(end - strongest.shape[1], end)
        for name, of in (("own", visual), ("cross", question)):
            sums[name][:, :end] += (strongest * of[:, rows, None]).sum(dim=1)
    return sums["own"] * sums["cross"]
