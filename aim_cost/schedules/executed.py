"""Which schedules ``aim_runtime`` runs: the language describes more than it executes."""

from collections.abc import Iterable
from dataclasses import dataclass

from aim_cost.ops.score import Score
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.schedule import Schedule


@dataclass(frozen=True)
class NotRun:
    """Why a schedule does not run: the field, what would run, what it says, why, the way out."""

    field: str
    expected: str
    got: object
    reason: str
    fix: str


def why_not_run(schedule: Schedule) -> NotRun | None:
    """The first part of ``schedule`` that is priced and not run; None where all of it runs."""
    found = _why_not_selected(schedule)
    if found is not None:
        return found
    prune = schedule.prune
    if prune is None:
        return None
    score = LAYER_SCORES[prune.importance]
    if prune.ranks and not score.runs:
        return _no_code("schedule.prune.importance", score, LAYER_SCORES.values())
    if prune.inject_at:
        return NotRun(
            "schedule.prune.inject_at",
            "0: visual tokens enter the first layer",
            prune.inject_at,
            "visual tokens enter the first layer",
            "Leave it out.",
        )
    return None


def _why_not_selected(schedule: Schedule) -> NotRun | None:
    if schedule.select is None:
        return None
    if schedule.merge is not None:
        return NotRun(
            "schedule",
            "merge or select",
            schedule.label(),
            "tokens are merged or chosen before the LLM, not both",
            "Leave one of the two out.",
        )
    score = VISUAL_SCORES[schedule.select.by]
    if score.runs and schedule.vision_merge is not None and score.reads_tower:
        return NotRun(
            "schedule",
            f"vision_merge or a select by {score.name}",
            schedule.label(),
            "tokens that are merged in the vision tower have no place in its attention",
            "Leave vision_merge out, or select by another score.",
        )
    return None if score.runs else _no_code("schedule.select.by", score, VISUAL_SCORES.values())


def _no_code(where: str, score: Score, others: Iterable[Score]) -> NotRun:
    known = ", ".join(other.name for other in others if other.runs)
    fix = f"Use one of {known}."
    return NotRun(where, "a score that runs here", score.name, score.why_not_run, fix)
