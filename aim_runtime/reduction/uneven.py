"""Rows of a batch that keep different numbers of tokens: padding on the left evens them out."""

import torch
from torch import Tensor


def select_rows(
    visual: Tensor, padding: Tensor, stay: Tensor, count: int, scores: Tensor | None
) -> Tensor:
    """Choose ``count`` tokens of each row: padding, then text and the ``stay`` best visual tokens.

    Shapes: visual[B, n] bool, padding[B] tokens at the start, stay[B], scores[B, n]
        -> int64 [B, count], ascending after the padding, which repeats token 0. ``count`` is at
        least the text and ``stay`` of each row.
    Args: scores, as for ``select_tokens``; None where no row has to choose.
    No device sync.
    """
    place = torch.arange(visual.shape[1], device=visual.device)
    if scores is None:
        scores = torch.zeros(visual.shape, device=visual.device)
    order = scores.masked_fill(~visual, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, place.expand_as(order))
    text = (place >= padding[:, None]) & ~visual
    chosen = text | (visual & (rank < stay[:, None]))
    return torch.where(chosen, place, -1).sort(dim=1).values[:, -count:].clamp(min=0)


def padded_mask(padding: Tensor, queries: int, keys: int) -> Tensor:
    """What the last ``queries`` of ``keys`` tokens may attend to: bool [B, 1, queries, keys].

    Causal, without the padding[B] at the start; a token of padding sees itself, so that no row is
    empty.
    """
    column = torch.arange(keys, device=padding.device)
    row = column[keys - queries :, None]
    real = column >= padding[:, None, None]
    return ((column <= row) & (real | (column == row)))[:, None]
