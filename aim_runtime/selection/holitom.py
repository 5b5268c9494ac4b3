"""HoliTom before the LLM: segments that save the most tokens, then a choice by attention.

Source: arXiv 2505.21334.
"""

import torch
from torch import Tensor

from aim_runtime.selection.candidates import Candidates, Kept, selects
from aim_runtime.selection.density import cluster_sums, density_scores, squared_distances
from aim_runtime.selection.segments import Still, same_segment, stay

STILL, NEIGHBOURS, OWN = 0.8, 7, 0.6
"""The defaults of its code: tau, K and beta."""


@selects("vision-attention-still")
def still_cells(of: Candidates) -> Kept:
    """Centres of clusters of the still tokens of each segment; of others the most attended.

    Each centre becomes OWN of itself and else the mean of the others of its cluster.
    """
    x = of.in_frames(of.features)
    alike = torch.cosine_similarity(x[:, 1:].float(), x[:, :-1].float(), dim=-1)
    segment = best_segments(alike > STILL)
    points = Still.of(of, segment, _likeness(alike, segment), STILL)
    near, squares = points.near, squared_distances(points.features)
    attention = of.in_frames(of.attention())
    scores = torch.where(points.still, density_scores(squares, near, NEIGHBOURS), attention)
    chosen = points.best(of, scores, near)
    sums, members = cluster_sums(points.features, squares, near, chosen)
    others = (sums - points.features) / (members - 1).clamp(min=1)
    joins = (points.still & chosen).unsqueeze(-1) & (members > 1)
    merged = OWN * points.features + (1 - OWN) * others
    return stay(of, chosen, torch.where(joins, merged, points.features))


def best_segments(still: Tensor) -> Tensor:
    """The segments that save the most, a still cell being kept once: int64 [items, F].

    A segment of k frames saves k - 1 times the cells that are still all through. Of equal gains the
    shorter last segment is taken.
    Args: still, bool [items, F - 1, M], between each frame and the next.
    """
    items, frames = still.shape[0], still.shape[1] + 1
    place = torch.arange(frames, device=still.device)
    moved = torch.where(still, -1, place[:-1, None]).cummax(dim=1).values
    lasts = place[:-1, None] - moved  # steps in a row, up to each, in which a cell stood still
    zero = still.new_zeros(items, dtype=torch.int64)
    saved, lengths = [zero, zero], [zero]  # by the first 0, 1, ... frames; length - 1 of the last
    for last in range(1, frames):
        steps = place[1 : last + 1]
        gain = (lasts[:, last - 1, :, None] >= steps).sum(dim=1) * steps
        before = torch.stack(saved, dim=1)  # [items, last + 1]
        options = torch.cat([before[:, -1:], before[:, :-1].flip(1) + gain], dim=1)
        # the first of the greatest
        length = (options * frames - place[: last + 1]).argmax(dim=1)
        saved.append(options.gather(1, length[:, None])[:, 0])
        lengths.append(length)
    begins, end = still.new_zeros(items, frames), zero + frames - 1
    for last in range(frames - 1, -1, -1):
        start = torch.where(end == last, last - lengths[last], -1)
        begins = begins | (place == start[:, None])
        end = torch.where(end == last, start - 1, end)
    return begins.cumsum(dim=1)


def _likeness(alike: Tensor, segment: Tensor) -> Tensor:
    """The least cosine between neighbouring frames of a segment: [items, F, M]."""
    inside = same_segment(segment)
    inside = inside[:, :, 1:] & inside[:, :, :-1]  # [items, F, F - 1]
    between = alike.unsqueeze(1).expand(-1, inside.shape[1], -1, -1)
    worst = between.masked_fill(~inside.unsqueeze(-1), torch.inf)
    edge = worst.new_full((*worst.shape[:2], 1, worst.shape[3]), torch.inf)
    return torch.cat([worst, edge], dim=2).amin(dim=2)
