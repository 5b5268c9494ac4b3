"""Choosing which visual tokens stay, and gathering them. Static shapes, no device sync."""

import torch
from torch import Tensor


def select_tokens(visual: Tensor, count: int, scores: Tensor | None = None) -> Tensor:
    """Choose ``count`` tokens of each row: all text tokens and the best visual tokens.

    Shapes: visual[B, n] bool, scores[B, n] -> int64 [B, count], ascending.
    Args: scores, only needed when some visual tokens stay and some go. Equal scores favour the
        earlier token: squared ranks underflow to exact ties.
    """
    if scores is None:
        scores = torch.zeros(visual.shape, device=visual.device)
    protected = scores.masked_fill(~visual, torch.inf)
    order = protected.argsort(dim=1, descending=True, stable=True)
    return order[:, :count].sort(dim=1).values


def take_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Gather tokens: x[B or 1, n, ...] and index[B, k] -> [B, k, ...]; x is not changed."""
    x = x.expand(index.shape[0], *x.shape[1:])
    shape = index.shape + (1,) * (x.dim() - 2)
    return x.gather(1, index.to(x.device).view(shape).expand(*index.shape, *x.shape[2:]))


def spread(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose ``count`` entries of each row at equal, whole steps from the first on.

    Shapes: index[B, n] -> [B, count] and [B, n - count], the others; both in their order.
    """
    columns = torch.arange(index.shape[1], device=index.device)
    step = index.shape[1] // max(count, 1)
    chosen = (columns % step == 0) & (columns < step * count)
    order = (~chosen).byte().argsort(stable=True)
    return index[:, order[:count]], index[:, order[count:]]
