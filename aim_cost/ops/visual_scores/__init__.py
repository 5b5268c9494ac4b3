"""Scores of visual tokens before the LLM, by the name that a schedule's ``select.by`` gives.

A score that runs has its entry here, its code in ``aim_runtime.selection`` under the same name, and
its slow reference in the tests. Nothing else lists the names.

FLOPs are those of the products that the runtime computes; sorting, clustering loops and elementwise
work count zero, as everywhere. Sources: the papers and repositories named.
"""

from aim_cost.ops.score import by_name
from aim_cost.ops.visual_scores import attention, baselines, density, frames, similarity
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize

__all__ = ["VISUAL_SCORES", "VisualScore", "VisualSize"]

VISUAL_SCORES = by_name(
    *attention.SCORES, *similarity.SCORES, *frames.SCORES, *density.SCORES, *baselines.SCORES
)
