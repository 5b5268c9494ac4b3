"""DART's choice: few tokens as pivots, and for each of them the tokens that are least like it.

Source: DART, arXiv 2502.11494, as its released code computes it.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from aim_cost.ops.scores import PIVOTS


@torch.no_grad()
def pivot_choice(
    states: Tensor,
    key: Tensor,
    visual: Tensor,
    stay: int | Tensor,
    padding: Tensor | None = None,
) -> Tensor:
    """Choose ``stay`` visual tokens of each row: 1 for those that stay, 0 for the others.

    The tokens whose keys have the largest L1 norms are pivots: 4 visual tokens, which stay, and 4
    of the text after the last visual token (before it where too few follow; fewer where there are
    fewer). Then the pivots take turns, visual ones first, each kind by falling norm: each takes
    the visual tokens not yet taken whose cosine to it is smallest, an equal part of those that are
    to stay, to whole numbers.
    Shapes: states[B, n, H], key[B, kv_heads, n, d], visual[B, n] bool -> [B, n] fp32.
    Args: stay, int64 [B, 1] where rows differ; padding, int64 [B], tokens at the start of each row.
    FLOPs as torch counts them: 2 * B * 8 * n * H. No device sync; works on meta.
    """
    norms = key.float().abs().sum(dim=(1, 3))
    place = torch.arange(visual.shape[1], device=visual.device)
    text = ~visual if padding is None else ~visual & (place >= padding[:, None])
    after = text & (place > (visual * place).amax(dim=1, keepdim=True))
    seen = norms.masked_fill(~visual, -1).argsort(dim=1, descending=True, stable=True)
    # text after the last visual token first
    first = norms + after * (norms.amax(dim=1, keepdim=True) + 1)
    heard = first.masked_fill(~text, -1).argsort(dim=1, descending=True, stable=True)
    fewer = max(0, PIVOTS - len(place))  # where there are no 4 tokens
    pivots = torch.cat([pad(order[:, :PIVOTS], (0, fewer)) for order in (seen, heard)], dim=1)
    if not isinstance(stay, Tensor):
        stay = torch.full_like(pivots[:, :1], stay)
    held = stay.clamp(max=PIVOTS)
    speakers = text.sum(dim=1, keepdim=True).clamp(max=PIVOTS)

    unit = normalize(states, dim=-1)
    picked = unit.gather(1, pivots.unsqueeze(-1).expand(-1, -1, unit.shape[2]))
    # p[B, 8, H] @ x[B, n, H]^T -> [B, 8, n]
    cosines = torch.bmm(picked, unit.transpose(1, 2)).float()
    chosen = visual & (_ranks(seen) < held)
    parts, left = PIVOTS + speakers, stay - held
    for turn in range(2 * PIVOTS):
        part = (left * (turn + 1)) // parts - (left * turn) // parts
        part = torch.where(turn < parts, part, 0)
        free = visual & ~chosen
        order = cosines[:, turn].masked_fill(~free, torch.inf).argsort(dim=1, stable=True)
        chosen = chosen | (free & (_ranks(order) < part))
    return chosen.float()


def _ranks(order: Tensor) -> Tensor:
    """Where each place stands in an ``order``[B, n] of places: [B, n]."""
    rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, rank)
