"""Pooling: how the features of a video's frames are pooled, read from a config."""

from dataclasses import dataclass

from aim_cost.models.config import Section
from aim_cost.models.vision_spec import Tower


@dataclass(frozen=True)
class Pooling:
    """Pooling of the features of each video frame on a square grid.

    Args:
        stride: on both sides.
        rounds_up: 27 x 27 -> 14 x 14 by 2 (LLaVA-OneVision); otherwise what does not fill a square
            is left out (LLaVA-NeXT-Video, 24 x 24 -> 12 x 12).
        before_projector: what the tower gives is pooled, not what the projector gives.
    """

    stride: int
    rounds_up: bool
    before_projector: bool

    def tokens(self, grid: tuple[int, int]) -> int:
        """Tokens of a frame of so many rows and columns of features."""
        rows, columns = (
            -(-side // self.stride) if self.rounds_up else side // self.stride for side in grid
        )
        return rows * columns


def onevision_pooling(root: Section, tower: Tower) -> Pooling:
    """Two by two, after the projector."""
    del root, tower
    return Pooling(stride=2, rounds_up=True, before_projector=False)


def next_video_pooling(root: Section, tower: Tower) -> Pooling:
    """By the config's stride, before the projector. Raises: SpecError."""
    # the third mode, conv, has weights
    root.choice("spatial_pool_mode", ("average", "max"))
    stride = root.whole("spatial_pool_stride", most=min(tower.grid))
    return Pooling(stride, rounds_up=False, before_projector=True)
