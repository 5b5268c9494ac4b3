"""Which schedules ``aim_runtime`` runs: the language describes more than it executes."""

from dataclasses import dataclass

from aim_cost.ops.scores import LAYER_SCORES
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
    if schedule.select is not None:
        return NotRun(
            "schedule.select",
            "merge and prune alone",
            schedule.label(),
            "tokens are not chosen before the LLM",
            "Leave select out.",
        )
    prune = schedule.prune
    if prune is None:
        return None
    score = LAYER_SCORES[prune.importance]
    if prune.ranks and not score.runs:
        known = ", ".join(name for name, other in LAYER_SCORES.items() if other.runs)
        return NotRun(
            "schedule.prune.importance",
            "a score that runs here",
            score.name,
            score.why_not_run,
            f"Use one of {known}.",
        )
    if prune.inject_at:
        return NotRun(
            "schedule.prune.inject_at",
            "0: visual tokens enter the first layer",
            prune.inject_at,
            "visual tokens enter the first layer",
            "Leave it out.",
        )
    return None
