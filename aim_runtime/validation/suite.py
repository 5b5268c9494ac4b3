"""The schedules that are run when the user names none. No two of them do the same."""

from collections.abc import Iterable

from aim_cost.errors import ScheduleError
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Workload
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import TokenTrace

_LATE, _EARLY = (14 / 28, 22 / 28), (7 / 28, 14 / 28)

_AIM = (
    (None, None),
    (0.5, None),
    (0.25, None),
    (0.125, None),
    (None, _LATE),
    (0.25, _LATE),
)
"""Retention, and the shares of the depth at which pruning begins and ends."""

_LADDER = (
    (None, None),
    (0.85, None),
    (None, _LATE),
    (0.55, None),
    (None, _EARLY),
    (0.35, None),
    (0.35, _LATE),
    (0.2, None),
    (0.2, _LATE),
    (0.2, _EARLY),
    (0.06, None),
    (0.03, _EARLY),
)

_Part = tuple[float | None, tuple[float, float] | None]


def default_schedules(spec: ModelSpec, workload: Workload) -> list[Schedule]:
    """No reduction, merging alone, pruning alone, and both: six schedules, or fewer.

    Those that a short model or a small input cannot tell apart are there once.
    """
    return _distinct(_AIM, spec, workload)


def validation_schedules(spec: ModelSpec, workload: Workload) -> list[Schedule]:
    """Twelve schedules, each with about a tenth less work for the LLM than the one before, or more.

    Nearer ones would be ordered by the noise of the clock. Merging alone, pruning alone (late,
    as AIM does, and early) and both take turns. Those that do not fit, or do what an earlier one
    does, are left out.
    """
    return _distinct(_LADDER, spec, workload)


def _distinct(parts: Iterable[_Part], spec: ModelSpec, workload: Workload) -> list[Schedule]:
    """The first schedule of each token trace; merging that would leave no token has none."""
    found: dict[TokenTrace, Schedule] = {}
    layers = spec.text.num_hidden_layers
    for retention, depth in parts:
        schedule = Schedule(
            Merge(retention=retention) if retention is not None else None,
            prune=Prune.at_depth(layers, *depth) if depth is not None else None,
        )
        try:
            found.setdefault(schedule.resolve(spec, workload), schedule)
        except ScheduleError:
            continue
    return list(found.values())
