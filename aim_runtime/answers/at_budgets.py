"""Methods scaled to equal budgets, to be measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from aim_cost.case import Case
from aim_cost.methods import Request, get_method
from aim_cost.methods.parameter import show_value
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.budget import Budget, meet, share_budget
from aim_runtime.answers.accuracy import Asked, AtBudget


@dataclass(frozen=True)
class Missed:
    """A method that does not run, or that cannot be scaled to a budget.

    Args: budget, a share of the visual tokens; None for a method that does not run at any.
    """

    method: str
    budget: float | None
    reason: str


def at_budgets(
    case: Case, requests: Sequence[Request], equal: str, shares: Sequence[float]
) -> tuple[list[Asked], list[Missed]]:
    """Each method at each budget: those that run and meet it, and why the others do not.

    Args: equal, a name of ``aim_cost.studies.budget.KINDS``; shares, budgets as of
    ``share_budget``.
    Raises: ScheduleError for an unknown kind, no share, or a wrong parameter.
    """
    budgets = [(share, share_budget(case, equal, share)) for share in shares]
    selected = {
        share: [_scaled(case, name, budget) for name in ("random", "uniform")]
        for share, budget in budgets
    }
    asked, missed = [], []
    for request in requests:
        name = _name(request)
        if request.method.why_not_run:
            missed.append(Missed(name, None, request.method.why_not_run))
            continue
        for share, budget in budgets:
            entry = meet(case, request, budget)
            if entry.schedule is None or entry.met is None:
                missed.append(Missed(name, share, entry.reason))
                continue
            at = AtBudget(name, equal, share, entry.met.share)
            asked.append(Asked(entry.schedule, at, *selected[share]))
    return asked, missed


def _scaled(case: Case, name: str, budget: Budget) -> Schedule | None:
    """A method without other parameters, at a budget."""
    return meet(case, Request(get_method(name)), budget).schedule


def _name(request: Request) -> str:
    """``fastv:k=3``."""
    given = [f":{name}={show_value(value)}" for name, value in request.given.items()]
    return request.method.name + "".join(given)
