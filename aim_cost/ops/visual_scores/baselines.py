"""Baselines, which look at nothing."""

from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize


def _nothing(size: VisualSize) -> list[Op]:
    del size
    return []


SCORES = (
    VisualScore("random", "drawn at random", "baseline", _nothing, across_sizes=True),
    VisualScore("uniform", "every k-th token", "baseline", _nothing, across_sizes=True),
)
