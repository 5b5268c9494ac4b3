"""Tokens far from the centres of their frame and of the video: VidCom2.

Source: arXiv 2505.14454.
"""

import torch
from torch import Tensor
from torch.nn import functional

from aim_runtime.selection.candidates import Candidates, Kept, selects

_CHANNELS = 0.5
_TEMPERATURE = 0.01
_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)


@selects("frame-centres")
def frame_centres(of: Candidates) -> Kept:
    """The tokens least near to both centres; frames far from that of the video keep more.

    A frame's share of ``keep`` is rounded as the share of a party in an election, after
    Sainte-Laguë: each frame's tokens get turns at (rank + 1/2) / share, and the earliest turns
    stay, the first of each frame before all. So the sum is exact, and where the plain roundings
    have that sum, they are the result. Where frames are ranked apart, all have the same share.
    """
    unit = _calm_channels(of.in_frames(of.features).float())  # [items, frames, n, H / 2]
    near_video = _nearness(unit, unit.mean(dim=(1, 2), keepdim=True))
    near = near_video + _nearness(unit, unit.mean(dim=2, keepdim=True))
    if of.sets > 1:
        return of.best(-near.flatten(1))
    frames = near.shape[1]
    distance = -near_video.mean(dim=2)
    uneven = ((distance - distance.amax(dim=1, keepdim=True)) / _TEMPERATURE).softmax(dim=1)
    share = of.keep / frames * (1 + uneven - 1 / frames)[:, :, None]
    rank = near.argsort(dim=2, stable=True).argsort(dim=2)
    turns = torch.where(rank == 0, -share, (rank + 0.5) / share)
    return of.best(-turns.flatten(1))


def _calm_channels(x: Tensor) -> Tensor:
    """Unit vectors of the half of the channels that vary least: x[items, frames, n, H]."""
    variance = x.var(dim=(1, 2), correction=0)
    order = variance.argsort(dim=1, stable=True)[:, : int(x.shape[3] * _CHANNELS)]
    return functional.normalize(x.take_along_dim(order[:, None, None], dim=3), dim=-1)


def _nearness(x: Tensor, centre: Tensor) -> Tensor:
    """Sum of Gaussian kernels of several widths: [items, frames, n]."""
    squared = (x - centre).square().sum(dim=-1)
    return torch.stack([(squared / (-2 * width)).exp() for width in _WIDTHS]).sum(dim=0)
