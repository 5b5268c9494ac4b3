"""PruneVid before the LLM: still cells of a segment are averaged, then tokens clustered.

Source: arXiv 2412.16117, section 3.2.
"""

import torch
from torch import Tensor
from torch.nn import functional

from aim_runtime.selection.candidates import Candidates, Kept, selects
from aim_runtime.selection.density import (
    cluster_sums,
    density_scores,
    nearest_centres,
    ranks,
    squared_distances,
)
from aim_runtime.selection.segments import Still, same_segment, stay

STILL, FRAMES_PER_CLUSTER, NEIGHBOURS = 0.8, 4, 7
"""The defaults of its code: tau, 1 / temporal_segment_ratio, and k."""


@selects("frame-density")
def frame_density(of: Candidates) -> Kept:
    """Centres of clusters of the still tokens of each segment, and of the others of each frame.

    Each becomes the mean of its cluster.
    """
    x = of.in_frames(of.features)
    segment = _segments(x.float().mean(dim=2))
    points = Still.of(of, segment, _likeness(x, segment), STILL)
    near, squares = points.near, squared_distances(points.features)
    centres = points.best(of, density_scores(squares, near, NEIGHBOURS), near)
    sums, members = cluster_sums(points.features, squares, near, centres)
    return stay(of, centres, sums / members.clamp(min=1))


def _segments(means: Tensor) -> Tensor:
    """Runs of frames of one cluster: means[items, F, H] -> int64 [items, F]."""
    frames = means.shape[1]
    near = torch.ones(len(means), frames, frames, dtype=torch.bool, device=means.device)
    squares = squared_distances(means)
    rank = ranks(density_scores(squares, near, NEIGHBOURS), near)
    cluster = nearest_centres(squares, near, rank < max(1, frames // FRAMES_PER_CLUSTER))
    return functional.pad((cluster[:, 1:] != cluster[:, :-1]).cumsum(dim=1), (1, 0))


def _likeness(x: Tensor, segment: Tensor) -> Tensor:
    """The mean cosine between two frames of a segment, of each cell: [items, F, M]."""
    same = same_segment(segment).float()
    length = same.sum(dim=2)[..., None]
    unit = functional.normalize(x.float(), dim=-1)
    total = (same @ unit.flatten(2)).unflatten(2, x.shape[2:])
    pairs = (length * (length - 1)).clamp(min=1)
    likeness: Tensor = (total.square().sum(dim=-1) - length) / pairs
    return likeness
