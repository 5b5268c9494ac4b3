"""FlashVID before the LLM: attended and diverse tokens, and trees of alike ones over time.

Source: arXiv 2602.08024.
"""

import torch
from torch import Tensor
from torch.nn import functional

from aim_cost.ops.visual_scores.density import diverse_tokens
from aim_runtime.selection.candidates import Candidates, Kept, selects
from aim_runtime.selection.density import cluster_sums, density_scores, ranks, squared_distances
from aim_runtime.selection.segments import (
    dealt,
    frame_budgets,
    most_of_a_frame,
    same_segment,
    similar_segments,
    stay,
)

SEGMENTS, ALIKE, LINKED, NEIGHBOURS = 8, 0.9, 0.8, 7
"""The defaults of its code: segments, their threshold, that of the links, and k."""


@selects("vision-attention-trees")
def trees_over_time(of: Candidates) -> Kept:
    """Of each frame tokens far from one another, weighted by attention; of the rest clusters.

    The rest is linked to the frame before first: a tree becomes its mean, at its root.
    """
    x = of.in_frames(of.features)
    items, frames, each, _ = x.shape
    budget = frame_budgets(of)
    diverse = diverse_tokens(budget)
    means = x.float().mean(dim=2)
    same = same_segment(similar_segments(means, ALIKE, SEGMENTS))
    centre = same.float() @ means / same.sum(dim=2, keepdim=True)
    fits = (x.float() * centre.unsqueeze(2)).sum(dim=-1)
    weight = of.in_frames(of.attention()) * fits
    unit = functional.normalize(x.float(), dim=-1)
    apart = (1 - unit @ unit.transpose(2, 3)) * weight.unsqueeze(2)
    chosen = _far_apart(apart, diverse, diverse_tokens(most_of_a_frame(of)))

    cosines = unit[:, 1:] @ unit[:, :-1].transpose(2, 3)
    together = same.diagonal(1, 1, 2)[..., None, None]  # each frame with the one before
    free = ~chosen[:, 1:].unsqueeze(3) & ~chosen[:, :-1].unsqueeze(2) & together
    closest, parent = cosines.masked_fill(~free, -torch.inf).max(dim=3)
    everyone = torch.ones(each, each, dtype=torch.bool, device=x.device)
    linked = (closest > LINKED) & (ranks(closest, everyone) < (each - budget[1:])[:, None])
    linked = functional.pad(linked, (0, 0, 1, 0))
    trees = _tree_means(x, linked, parent)

    left = ~chosen & ~linked
    near, squares = left.unsqueeze(-1) & left.unsqueeze(-2), squared_distances(trees)
    sizes = left.sum(dim=2).unflatten(1, (of.sets, -1))
    spare = (budget - diverse).view(of.sets, -1).sum(dim=1, keepdim=True)
    quota = dealt(spare, sizes).view(items, frames, 1)
    rank = ranks(density_scores(squares, near, NEIGHBOURS), near)
    centres = left & (rank < quota)
    sums, members = cluster_sums(trees, squares, near, centres)
    joined = torch.where(centres.unsqueeze(-1), sums / members.clamp(min=1), x.float())
    return stay(of, chosen | centres, joined)


def _far_apart(apart: Tensor, counts: Tensor, most: int) -> Tensor:
    """Take tokens whose column of ``apart`` is farthest from those taken before it.

    Args: apart[items, F, M, M]; counts[F], of each frame; most, the greatest of them.
    Returns: bool [items, F, M].
    """
    each = apart.shape[3]
    place = torch.arange(each, device=apart.device)
    apart = apart.masked_fill(place == place[:, None], 0)
    # at first the second smallest: the smallest is the token itself
    nearest = apart.topk(min(2, each), dim=2, largest=False).values[:, :, -1]
    taken = torch.zeros_like(nearest, dtype=torch.bool)
    for step in range(most):
        best = nearest.masked_fill(taken, -torch.inf).argmax(dim=2, keepdim=True)
        taken = taken | ((place == best) & (step < counts)[:, None])
        row = apart.gather(2, best.unsqueeze(3).expand(-1, -1, -1, each))[:, :, 0]
        nearest = torch.minimum(nearest, row) if step else row
    return taken


def _tree_means(x: Tensor, linked: Tensor, parent: Tensor) -> Tensor:
    """The mean of all tokens of a tree, at its root: x[items, F, M, H] -> the same in float32.

    Args: linked, bool [items, F, M]; parent, int64 [items, F - 1, M], in the frame before.
    """
    place = torch.arange(x.shape[2], device=x.device)[:, None]
    sums, sizes = list(x.float().unbind(1)), list(torch.ones_like(x[..., :1]).float().unbind(1))
    for frame in range(len(sums) - 1, 0, -1):
        joins = (parent[:, frame - 1, None] == place) & linked[:, frame, None]
        joined = joins.float() @ sums[frame]
        sums[frame - 1] = sums[frame - 1] + joined
        sizes[frame - 1] = sizes[frame - 1] + (joins * sizes[frame].transpose(1, 2)).sum(
            dim=2, keepdim=True
        )
    return torch.stack(sums, dim=1) / torch.stack(sizes, dim=1)
