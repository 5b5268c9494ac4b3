"""Which schedules ``aim_runtime`` runs: the language describes more than it executes."""

from dataclasses import dataclass

from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.schedules.schedule import Schedule


@dataclass(frozen=True)
class NotRun:
    """Why a schedule does not run: the field, what would run, what it says, and the way out."""

    field: str
    expected: str
    got: object
    fix: str


def why_not_run(schedule: Schedule) -> NotRun | None:
    """The first part of ``schedule`` that is priced and not run; None where all of it runs."""
    if schedule.select is not None:
        return NotRun(
            "schedule.select",
            "merge and prune alone",
            schedule.label(),
            "Leave select out: tokens that are chosen before the LLM are priced, not run.",
        )
    prune = schedule.prune
    if prune is None:
        return None
    if not LAYER_SCORES[prune.importance].runs:
        known = ", ".join(name for name, score in LAYER_SCORES.items() if score.runs)
        return NotRun(
            "schedule.prune.importance",
            "a score that runs here",
            prune.importance,
            f"Use one of {known}; others are priced, not run.",
        )
    if prune.inject_at:
        return NotRun(
            "schedule.prune.inject_at",
            "0: visual tokens enter the first layer",
            prune.inject_at,
            "Leave it out; later injection is priced, not run.",
        )
    return None
