"""Tokens of a video that differ from the same place of another frame: EVS and DyCoke.

Sources: arXiv 2510.14624, arXiv 2411.15024.
"""

import torch
from torch import Tensor
from torch.nn import functional

from aim_runtime.selection.candidates import Candidates, Kept, selects


@selects("adjacent-cosine")
def adjacent_cosine(of: Candidates) -> Kept:
    """The tokens least like the same place of the frame before; the first frame goes first.

    Where frames are ranked apart, the first one is compared with the second.
    """
    unit = _unit(of)
    like = (unit[:, 1:] * unit[:, :-1]).sum(dim=-1)
    first = like[:, :1]
    if of.sets == 1:
        first = torch.full_like(first, -torch.inf)
    return of.best(-torch.cat([first, like], dim=1).flatten(1))


@selects("groups-of-four")
def groups_of_four(of: Candidates) -> Kept:
    """DyCoke as stated: the first of four frames stays whole."""
    frame = torch.arange(of.sets * of.frames, device=of.features.device)
    return _in_groups(of, frame % 4 == 0, frame < 0)


@selects("groups-of-four-loop")
def groups_of_four_loop(of: Candidates) -> Kept:
    """DyCoke as the loop of its code runs.

    Of the last four frames the third stays whole too; a last frame without a pair is the first to
    go.
    """
    frames = of.sets * of.frames
    frame = torch.arange(frames, device=of.features.device)
    alone = frame >= frames - frames % 2
    whole = (frame % 4 == 0) | (frame % 2 == 0) & (frame >= frames - 2)
    return _in_groups(of, whole & ~alone, alone)


def _in_groups(of: Candidates, whole: Tensor, alone: Tensor) -> Kept:
    """Keep frames that are ``whole``, then of the compared ones alike what is least similar.

    A frame is compared with the one before it, every other one with that two before it; those that
    stay whole with the one after it, which matters only where they cannot stay whole.
    Args: whole, alone: bool [frames]; tokens of frames that are ``alone`` stay last.
    """
    unit = _unit(of)
    frames, tokens = unit.shape[1], unit.shape[2]
    frame = torch.arange(frames, device=unit.device)
    before = torch.where(alone | (frame % 2 == 1), frame - 1, frame - 2)
    after = torch.where(frame + 1 < frames, frame + 1, frame - 1)
    like = (unit * unit[:, torch.where(whole, after, before)]).sum(dim=-1)
    rank = like.argsort(dim=2, stable=True).argsort(dim=2)  # 0 for the least similar
    return of.best((tokens * (whole.long() - alone.long())[:, None] - rank).flatten(1))


def _unit(of: Candidates) -> Tensor:
    return functional.normalize(of.in_frames(of.features).float(), dim=-1)
