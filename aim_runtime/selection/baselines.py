"""Random and equally spaced tokens, and pooled grids: what a method has to beat."""

import torch
from torch.nn import functional

from aim_cost.ops.visual_scores.baselines import side_of
from aim_runtime.reduction.chance import random_numbers
from aim_runtime.selection.candidates import Candidates, Kept, selects


@selects("random")
def random(of: Candidates) -> Kept:
    """Drawn by the number of tokens of a set, so that a prompt fares alike in any batch."""
    items, tokens, _ = of.features.shape
    drawn = random_numbers(items * of.sets, tokens // of.sets)
    return of.best(drawn.to(of.features.device, non_blocking=True).reshape(items, tokens))


@selects("uniform")
def uniform(of: Candidates) -> Kept:
    """Tokens of each set at equal distances, each in the middle of its part."""
    return of.kept(_middles(of.keep, of.features.shape[1] // of.sets, of))


@selects("pooled-grid")
def pooled_grid(of: Candidates) -> Kept:
    """The square grid of each frame, averaged down to a smaller one.

    A mean stands at the middle of its part. Raises: ScheduleError for grids that are not square.
    """
    frames = of.in_frames(of.features)
    items, number, each, hidden = frames.shape
    side, kept = side_of(each, 1), side_of(of.keep, of.frames)
    # [items * frames, H, side, side]
    grids = frames.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
    means = functional.adaptive_avg_pool2d(grids.float(), kept).flatten(2).transpose(1, 2)
    line = (2 * torch.arange(kept, device=frames.device) + 1) * side // (2 * kept)
    places = (line[:, None] * side + line).flatten()
    starts = each * torch.arange(number, device=frames.device)[:, None]
    return Kept(
        (starts + places).flatten().expand(items, -1),
        means.to(of.features.dtype).reshape(items, -1, hidden),
    )


def _middles(count: int, size: int, of: Candidates) -> torch.Tensor:
    """The middles of ``count`` equal parts of ``size`` places: int64 [items * sets, count]."""
    middle = 2 * torch.arange(count, device=of.features.device) + 1
    return (middle * size // (2 * count)).expand(len(of.features) * of.sets, -1)
