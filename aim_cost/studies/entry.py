"""Entry: one method of a comparison, resolved for a case, and its cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aim_cost.case import Case, Estimate
from aim_cost.errors import ScheduleError
from aim_cost.methods.method import Method, Request
from aim_cost.methods.parameter import Value, show_value
from aim_cost.papers.figures import NO_REDUCTION
from aim_cost.render import Row
from aim_cost.schedules.schedule import EXECUTED_RULE, Schedule
from aim_cost.schedules.trace import TokenTrace


@dataclass(frozen=True)
class Met:
    """How near a method came to its budget: both in the unit of the budget's kind, SI."""

    budget: float
    reached: float

    @property
    def share(self) -> float:
        return self.reached / self.budget

    def to_row(self) -> Row:
        """Columns of a row."""
        return {"budget": self.budget, "budget.reached": self.reached, "budget.share": self.share}


@dataclass(frozen=True)
class Entry:
    """One method of a comparison, resolved; ``schedule`` is None where ``reason`` says why.

    Args: met, how a budget was met, where there was one.
    """

    method: Method | None
    parameters: Mapping[str, Value] = field(default_factory=dict)
    schedule: Schedule | None = None
    reason: str = ""
    met: Met | None = None

    @property
    def name(self) -> str:
        return self.method.name if self.method else NO_REDUCTION

    def values_shown(self) -> str:
        """Its parameters in words; the schedule where it has none."""
        given = {name: value for name, value in self.parameters.items() if value is not None}
        values = ", ".join(f"{name} {show_value(value)}" for name, value in given.items())
        return values or (self.schedule.label() if self.schedule else "")


BASELINE = Entry(None, schedule=Schedule())
"""No reduction, what shares are of."""

_ANY_TEXT = replace(EXECUTED_RULE, least_text_tokens=0)


def token_trace(case: Case, schedule: Schedule) -> TokenTrace:
    """The trace as executed; a case without text, which conventions may count, has one too."""
    return schedule.resolve(case.model, case.workload, _ANY_TEXT)


def resolve(case: Case, request: Request) -> Entry:
    """The entry of the method on ``case``; a method that does not fit has the reason in its entry.

    Raises: ScheduleError when a parameter that was given is wrong.
    """
    method, given = request.method, request.given
    method.check(case.model, given)
    try:
        values = method.values(case.model, given)
        schedule = method.schedule(case.model, case.workload, **given)
        token_trace(case, schedule)
    except ScheduleError as error:
        return Entry(method, given, reason=str(error))
    return Entry(method, values, schedule)


def average_tokens(trace: TokenTrace) -> float:
    """Visual tokens entering a layer, newline included: the mean over the layers."""
    return sum(trace.attention_tokens) / len(trace.attention_tokens) - trace.text_tokens


def reduced_flops(result: Estimate) -> int:
    """FLOPs of the LLM, and of the merging and the scores where the convention counts them."""
    return sum(result.graph.phase(name).flops for name in ("merge", "llm", "importance"))
