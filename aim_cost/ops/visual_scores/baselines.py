"""Baselines, which look at no token."""

import math

from aim_cost.errors import ScheduleError
from aim_cost.ops.count import Count
from aim_cost.ops.kind import Elementwise
from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize, visual_op


def side_of(tokens: Count, frames: Count) -> int:
    """The side of the square grids of ``frames`` that have ``tokens`` together.

    Raises: ScheduleError where there are none.
    """
    side = math.isqrt(int(tokens) // int(frames))
    if side == 0 or side * side * frames != tokens:
        raise ScheduleError(
            "select.by pooled-grid",
            expected="square grids, before and after",
            got=f"{tokens} tokens of {frames} frames",
            fix="Keep a square number of each frame, e.g. frame:49.",
        )
    return side


def _nothing(size: VisualSize) -> list[Op]:
    del size
    return []


def _means(size: VisualSize) -> list[Op]:
    side_of(size.tokens, size.frames)
    kept = size.sets * side_of(size.kept, size.frames) ** 2 * size.frames
    reads, writes = size.rows * size.hidden, kept * size.hidden
    return [visual_op("means", size, 0, reads, writes, Elementwise.AVERAGE)]


SCORES = (
    VisualScore("random", "drawn at random", "baseline", _nothing, across_sizes=True),
    VisualScore("uniform", "every k-th token", "baseline", _nothing, across_sizes=True),
    VisualScore("pooled-grid", "means of the parts of a frame's grid", "baseline", _means),
)
