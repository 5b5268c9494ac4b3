"""The parameter of a method at which it costs as much as another: tokens, FLOPs or time."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from aim_cost.case import Case
from aim_cost.checks import one_of
from aim_cost.errors import ScheduleError
from aim_cost.methods.library import get_method
from aim_cost.methods.method import Method, Request
from aim_cost.methods.parameter import Value, show_value
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.select import Select
from aim_cost.studies.entry import (
    Entry,
    Met,
    average_tokens,
    reduced_flops,
    resolve,
    token_trace,
)
from aim_cost.units import show, show_time, si


@dataclass(frozen=True)
class Kind:
    """A quantity that methods are given equal amounts of, and its units for people.

    Args: prefix, SI, of what ``--budget`` takes; unit, in words.
    """

    title: str
    measure: Callable[[Case, Schedule], float]
    show: Callable[[float], str]
    prefix: str
    unit: str


def _tokens(case: Case, schedule: Schedule) -> float:
    return average_tokens(token_trace(case, schedule))


KINDS = {
    "tokens": Kind("visual tokens, mean of the layers", _tokens, "{:.1f}".format, "", "tokens"),
    "flops": Kind(
        "FLOPs of LLM, merging and scores, executed",
        lambda case, schedule: float(reduced_flops(case.price(schedule))),
        lambda value: show(value, "FLOPs"),
        "T",
        "10**12 FLOPs",
    ),
    "time": Kind(
        "TTFT", lambda case, schedule: case.price(schedule).ttft_s, show_time, "m", "milliseconds"
    ),
}


@dataclass(frozen=True)
class Budget:
    """The most that each method of a comparison may cost: ``amount`` in the SI unit of ``kind``."""

    kind: Kind
    amount: float

    def shown(self) -> str:
        return f"{self.kind.show(self.amount)} ({self.kind.title})"


def get_budget(case: Case, name: str | None, given: float | None = None) -> Budget | None:
    """A budget of one of KINDS; None where no kind is named.

    Args: given, in the kind's unit for people; by default what AIM's default schedule costs.
    Raises: ScheduleError for an unknown kind, no positive number, a number without a kind, or
        where AIM does not fit.
    """
    if name is None:
        if given is None:
            return None
        raise ScheduleError(
            "--budget", expected="--equal beside it", got="none", fix="E.g. --equal flops."
        )
    kind = KINDS[one_of(name, KINDS, "--equal", ScheduleError)]
    if given is None:
        default = get_method("aim").schedule(case.model, case.workload)
        return Budget(kind, kind.measure(case, default))
    if not 0 < given < float("inf"):
        raise ScheduleError(
            "--budget", expected="a number above 0", got=given, fix=f"Give {kind.unit}."
        )
    return Budget(kind, si(given, kind.prefix) if kind.prefix else given)


def share_budget(case: Case, name: str, share: float) -> Budget:
    """What keeping ``share`` of the visual tokens before the LLM costs, chosen for nothing.

    Newline tokens stay beside it. Args: name, one of KINDS. Raises: ScheduleError.
    """
    kind = KINDS[one_of(name, KINDS, "--equal", ScheduleError)]
    return Budget(kind, kind.measure(case, Schedule(select=Select(retention=share))))


def meet(case: Case, request: Request, budget: Budget) -> Entry:
    """Scale the method's parameter to the largest cost that is not above ``budget``.

    Bisection over the parameter's steps, on the premise that cost does not fall where tokens rise;
    where it does (a calibrated time may), a step at which it crosses the budget is found. A method
    that lies below the budget at all its steps, or above it, says so in the entry.
    Raises: ScheduleError when a parameter that was given is wrong.
    """
    method, knob = request.method, request.method.scale
    method.check(case.model, request.given)
    if knob is None:
        return Entry(method, request.given, reason="no parameter that a budget could scale")
    if knob.name in request.given:
        raise ScheduleError(
            f"{method.name}.{knob.name}",
            expected="no value, the budget decides it",
            got=show_value(request.given[knob.name]),
            fix="Leave it out, or leave --equal out.",
        )
    fixed = dict(request.given)
    method.check(case.model, {**fixed, knob.name: knob.default_for(_layers(case))})
    search = _Search(case, method, fixed, knob.name, budget)
    found = resolve(case, Request(method, fixed))
    if found.schedule is not None and search.measure(found.schedule) == budget.amount:
        return search.met(found, budget.amount)
    steps = knob.steps(_layers(case), case.workload.visual_input(case.model).group_tokens)
    least, most = 0, len(steps) - 1
    top = search.cost(steps[most])
    if top is None or top < budget.amount:
        return search.unmet(steps[most], "at most", top)
    while most - least > 1:
        middle = (least + most) // 2
        cost = search.cost(steps[middle])
        # a value that leaves too few tokens for a schedule lies below any budget
        if cost is None or cost <= budget.amount:
            least = middle
        else:
            most = middle
    cost = search.cost(steps[least])
    if cost is None:
        return search.unmet(steps[most], "at least", search.cost(steps[most]))
    if cost > budget.amount:
        return search.unmet(steps[least], "at least", cost)
    return search.met(search.entry(steps[least]), cost)


@dataclass(frozen=True)
class _Search:
    """A method whose parameter ``knob`` is to be found, the others ``fixed``."""

    case: Case
    method: Method
    fixed: dict[str, Value]
    knob: str
    budget: Budget

    def entry(self, value: Value) -> Entry:
        return resolve(self.case, Request(self.method, {**self.fixed, self.knob: value}))

    def measure(self, schedule: Schedule) -> float:
        return self.budget.kind.measure(self.case, schedule)

    def cost(self, value: Value) -> float | None:
        """None where the value gives no schedule."""
        schedule = self.entry(value).schedule
        return None if schedule is None else self.measure(schedule)

    def met(self, found: Entry, cost: float) -> Entry:
        return replace(found, met=Met(self.budget.amount, cost))

    def unmet(self, value: Value, bound: str, cost: float | None) -> Entry:
        """The entry with the nearest cost to the budget, and the value that gives it."""
        if cost is None:
            return Entry(self.method, self.fixed, reason=self.entry(value).reason)
        shown, kind = self.budget.kind.show, self.budget.kind
        reason = (
            f"cannot meet {shown(self.budget.amount)} ({kind.title}): {bound} {shown(cost)}, at "
            f"{self.knob} {show_value(value)}"
        )
        return Entry(self.method, self.fixed, reason=reason)


def _layers(case: Case) -> int:
    return case.model.text.num_hidden_layers
