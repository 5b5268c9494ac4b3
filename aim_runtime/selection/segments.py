"""Segments: runs of similar frames of a video, and the cells that stand still in each.

Shapes: F frames of M tokens of width H; ``segment``, int64 [items, F], rises by one at each cut.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aim_runtime.reduction.select import take_tokens
from aim_runtime.selection.candidates import Candidates, Kept
from aim_runtime.selection.density import ranks


def similar_segments(means: Tensor, threshold: float, least: int) -> Tensor:
    """Cut where neighbouring frames are less alike than ``threshold``, and at the least alike.

    So there are ``least`` segments or more, as far as there are frames.
    Args: means[items, F, H], of each frame.
    """
    alike = torch.cosine_similarity(means[:, :-1], means[:, 1:], dim=-1)
    rank = alike.argsort(dim=1, stable=True).argsort(dim=1)
    cut = (alike < threshold) | (rank < least - 1)
    return functional.pad(cut.cumsum(dim=1), (1, 0))


def same_segment(segment: Tensor) -> Tensor:
    """bool [items, F, F]: which frames are in one segment."""
    return segment.unsqueeze(2) == segment.unsqueeze(1)


def dealt(total: Tensor | int, sizes: Tensor) -> Tensor:
    """``total`` dealt out in proportion to ``sizes``, int64 [..., parts], so that the sum is exact.

    No part gets more than its size where ``total`` is at most their sum.
    """
    ends = total * sizes.cumsum(dim=-1) // sizes.sum(dim=-1, keepdim=True).clamp(min=1)
    return ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))


def frame_budgets(of: Candidates) -> Tensor:
    """How many tokens each frame keeps if all fare alike: int64 [F]."""
    ones = torch.ones(of.sets, of.frames, dtype=torch.int64, device=of.features.device)
    return dealt(of.keep, ones).flatten()


def most_of_a_frame(of: Candidates) -> int:
    """The greatest of ``frame_budgets``."""
    return -(-of.keep // of.frames)


def stay(of: Candidates, chosen: Tensor, features: Tensor) -> Kept:
    """Keep what is chosen, bool [items, F, M], of features [items, F, M, H]."""
    order = (~chosen.flatten(1)).int().argsort(dim=1, stable=True)
    places = order[:, : of.sets * of.keep]
    return Kept(places, take_tokens(features.flatten(1, 2), places).to(of.features.dtype))


@dataclass(frozen=True)
class Still:
    """The tokens of frames, where those that stand still in a segment are one.

    Args:
        features: [items, F, M, H] in float32: the mean over the segment where a cell stands still.
        still: bool [items, F, M], the cells that do.
        left: bool [items, F, M]: all tokens but the still ones after the first frame of a segment.
    """

    features: Tensor
    still: Tensor
    left: Tensor

    @classmethod
    def of(cls, of: Candidates, segment: Tensor, likeness: Tensor, threshold: float) -> "Still":
        """Average cells whose ``likeness``, [items, F, M], in a segment is above ``threshold``.

        That of the first frame of a segment counts. In each frame as many cells are left out of it,
        the least alike, as it keeps tokens, so that enough are left.
        """
        x = of.in_frames(of.features).float()
        same = same_segment(segment)
        length, first = same.sum(dim=2), same.int().argmax(dim=2)
        likeness = take_tokens(likeness, first)
        everywhere = likeness.new_ones(x.shape[2], x.shape[2], dtype=torch.bool)
        most = x.shape[2] - most_of_a_frame(of)
        still = (likeness > threshold) & (ranks(likeness, everywhere) < most)
        still = still & (length > 1).unsqueeze(2)
        mean = (same.float() @ x.flatten(2)).unflatten(2, x.shape[2:]) / length[..., None, None]
        begins = first == torch.arange(x.shape[1], device=x.device)
        return cls(torch.where(still.unsqueeze(-1), mean, x), still, ~still | begins.unsqueeze(2))

    @property
    def near(self) -> Tensor:
        """bool [items, F, M, M]: which tokens are in one group, the still or others of a frame."""
        alike = self.still.unsqueeze(-1) == self.still.unsqueeze(-2)
        return alike & self.left.unsqueeze(-1) & self.left.unsqueeze(-2)

    def best(self, of: Candidates, scores: Tensor, near: Tensor) -> Tensor:
        """The best tokens of each group, bool [items, F, M]; groups keep in proportion."""
        groups = torch.stack([self.left & self.still, self.left & ~self.still], dim=2)
        sizes = groups.sum(dim=-1).unflatten(1, (of.sets, -1)).flatten(2)
        kept = dealt(of.keep, sizes).view(*groups.shape[:3], 1)
        quota = torch.where(self.still, kept[:, :, 0], kept[:, :, 1])
        return self.left & (ranks(scores, near) < quota)
