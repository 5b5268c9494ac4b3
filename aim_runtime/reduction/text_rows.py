"""Scores by the attention of text tokens: rows of these alone are made, not the whole matrix.

Sources: SparseVLM, arXiv 2410.04417, section 3.2, as its released code computes it; PruneVid, arXiv
2412.16117, section 3.3.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from aim_cost.ops import formulas


@torch.no_grad()
def text_raters(embeds: Tensor, visual: Tensor, text: int, padding: Tensor | None) -> Tensor:
    """Find the text tokens that rate the visual ones: those more like them than the mean text.

    A softmax over the text tokens of embeds embeds^T says how a visual token shares itself among
    them; raters get more than the mean share, averaged over the visual tokens. Text after the last
    visual token alone is asked, all text where none follows.
    Shapes: embeds[B, n, H] as they enter the LLM, visual[B, n] bool -> bool [B, n].
    Args: text, at least the text tokens of each row; padding as in ``rater_importance``.
    FLOPs as torch counts them: 2 * B * n * text * H.
    """
    index, asked = _text(visual, text, padding)
    # x[B, n, H] @ t[B, text, H]^T -> [B, n, text]
    rows = embeds.gather(1, index.unsqueeze(-1).expand(-1, -1, embeds.shape[2])).transpose(1, 2)
    shares = embeds.new_zeros(index.shape, dtype=torch.float32)
    for start in range(0, embeds.shape[1], formulas.IMPORTANCE_ROWS):
        block = slice(start, start + formulas.IMPORTANCE_ROWS)
        logits = torch.bmm(embeds[:, block], rows).float()
        share = logits.masked_fill_(~asked[:, None], -torch.inf).softmax(dim=-1)
        shares += share.masked_fill_(~visual[:, block, None], 0).sum(dim=1)
    shares = shares.masked_fill_(~asked, 0)
    # all shares of a visual token are 1 together, so the mean is one part of those asked
    above = asked & (shares * asked.sum(dim=1, keepdim=True) > visual.sum(dim=1, keepdim=True))
    raters = torch.where(above.any(dim=1, keepdim=True), above, asked)
    return torch.zeros_like(visual).scatter(1, index, raters)


@torch.no_grad()
def rater_importance(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    raters: Tensor,
    visual: Tensor,
    text: int,
    padding: Tensor | None = None,
) -> Tensor:
    """Score tokens by the attention of the raters, mean over heads and raters.

    Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], both after the rotary embedding;
        raters, visual[B, n] bool -> [B, n] fp32.
    Args:
        text: at least the text tokens of each row.
        padding: int64 [B], tokens of padding at the start of each row.
    Rows of ``text`` tokens are made, ``formulas.IMPORTANCE_ROWS`` at a time; softmax in fp32.
    FLOPs as torch counts them: 2 * B * heads * text * n * d.
    """
    scores = query.new_zeros(visual.shape, dtype=torch.float32)
    for places, attention in _rows_of_text(query, key, scaling, visual, text, padding):
        rating = raters.gather(1, places).unsqueeze(-1)
        scores += attention.mean(dim=1).masked_fill_(~rating, 0).sum(dim=1)
    return scores / raters.sum(dim=1, keepdim=True)


@torch.no_grad()
def question(visual: Tensor, text: int, padding: Tensor | None) -> Tensor:
    """The text after the last visual token, or all text where none follows: bool [B, n].

    Args: visual[B, n] bool; text, padding as in ``rater_importance``.
    """
    index, asked = _text(visual, text, padding)
    return torch.zeros_like(visual).scatter(1, index, asked)


@torch.no_grad()
def question_importance(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    question: Tensor,
    visual: Tensor,
    text: int,
    padding: Tensor | None = None,
) -> Tensor:
    """Score tokens by the most attention that a head of a token of the question pays to them.

    Args: question[B, n] bool; shapes, other args, memory and FLOPs as of ``rater_importance``.
    """
    scores = query.new_zeros(visual.shape, dtype=torch.float32)
    for places, attention in _rows_of_text(query, key, scaling, visual, text, padding):
        asking = question.gather(1, places).unsqueeze(-1)
        most = attention.amax(dim=1).masked_fill_(~asking, 0).amax(dim=1)
        scores = torch.maximum(scores, most)
    return scores


def _rows_of_text(
    query: Tensor, key: Tensor, scaling: float, visual: Tensor, text: int, padding: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Attention of the text tokens, ``formulas.IMPORTANCE_ROWS`` at a time.

    Yields: int64 [B, rows], their places, and [B, heads, rows, n] fp32.
    """
    batch, heads, tokens, dims = query.shape
    kv_heads = key.shape[1]
    index, _ = _text(visual, text, padding)
    column = torch.arange(tokens, device=query.device)
    shared = key.flatten(0, 1).transpose(1, 2)
    for places in index.split(formulas.IMPORTANCE_ROWS, dim=1):
        rows = places.shape[1]
        picked = places[:, None, :, None].expand(-1, heads, -1, dims)
        # q[B * kv, heads / kv * rows, d] @ k[B * kv, n, d]^T
        grouped = query.gather(2, picked).reshape(batch * kv_heads, -1, dims)
        logits = torch.bmm(grouped, shared).view(batch, heads, rows, tokens).float()
        seen = column <= places.unsqueeze(-1)
        if padding is not None:
            # a token of padding sees itself, so that no row is empty
            real = column >= padding[:, None, None]
            seen = seen & (real | (column == places.unsqueeze(-1)))
        logits = logits.mul_(scaling).masked_fill_(~seen[:, None], -torch.inf)
        yield places, logits.softmax(dim=-1)


def _text(visual: Tensor, text: int, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Places of the text tokens of each row, [B, text], and which of them may rate.

    Text comes first, in its order; where a row has less, other places follow, which may not.
    """
    place = torch.arange(visual.shape[1], device=visual.device)
    real = ~visual if padding is None else ~visual & (place >= padding[:, None])
    index = real.int().argsort(dim=1, descending=True, stable=True)[:, :text]
    last = (visual * place).amax(dim=1, keepdim=True)
    is_text = real.gather(1, index)
    after = is_text & (index > last)
    return index, torch.where(after.any(dim=1, keepdim=True), after, is_text)
