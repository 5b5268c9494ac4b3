"""The parameter of a method at which it costs as much as another: tokens, FLOPs or time."""

from collections.abc import Callable
from dataclasses import dataclass

from aim_cost.checks import one_of
from aim_cost.compare import Case, Entry, average_tokens, reduced_flops, resolve
from aim_cost.errors import ScheduleError
from aim_cost.methods.library import get_method
from aim_cost.methods.method import Method, Request
from aim_cost.methods.parameter import Value, show_value
from aim_cost.schedule import Schedule
from aim_cost.units import show, show_time


@dataclass(frozen=True)
class Kind:
    """What is held equal: a number of a schedule, how it is shown, and how people give it.

    Args: prefix, SI, of what ``--budget`` takes; unit, in words.
    """

    title: str
    measure: Callable[[Case, Schedule], float]
    show: Callable[[float], str]
    prefix: str
    unit: str


def _tokens(case: Case, schedule: Schedule) -> float:
    return average_tokens(schedule.resolve(case.model, case.workload))


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


def get_kind(name: str) -> Kind:
    """The kind of budget of that name. Raises ScheduleError that lists them."""
    return KINDS[one_of(name, KINDS, "--equal", ScheduleError)]


def default_budget(case: Case, kind: Kind) -> float:
    """What AIM's default schedule costs. Raises: ScheduleError where AIM does not fit."""
    return kind.measure(case, get_method("aim").schedule(case.model, case.workload))


def meet(case: Case, request: Request, kind: Kind, budget: float) -> Entry:
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
    fixed = {name: value for name, value in request.given.items() if name != knob.name}
    method.check(case.model, {**fixed, knob.name: knob.default_for(_layers(case))})
    search = _Search(case, method, fixed, knob.name, kind)
    found = resolve(case, Request(method, fixed))
    if found.schedule is not None and kind.measure(case, found.schedule) == budget:
        return _entry(found, kind, budget, budget)
    steps = knob.steps(_layers(case), case.workload.visual_input(case.model).group_tokens)
    least, most = 0, len(steps) - 1
    top = search.cost(steps[most])
    if top is None or top < budget:
        reached = "" if top is None else f"at most {kind.show(top)}"
        return _unmet(request, knob.name, steps[most], reached or search.why(steps[most]))
    if top == budget:
        return _entry(search.entry(steps[most]), kind, budget, top)
    while most - least > 1:
        middle = (least + most) // 2
        cost = search.cost(steps[middle])
        # too few tokens to be a schedule at all lies below any budget
        if cost is None or cost <= budget:
            least = middle
        else:
            most = middle
    cost = search.cost(steps[least])
    if cost is None or cost > budget:
        over = search.cost(steps[most]) if cost is None else cost
        at = steps[most] if cost is None else steps[least]
        assert over is not None
        return _unmet(request, knob.name, at, f"at least {kind.show(over)}")
    return _entry(search.entry(steps[least]), kind, budget, cost)


@dataclass(frozen=True)
class _Search:
    case: Case
    method: Method
    fixed: dict[str, Value]
    knob: str
    kind: Kind

    def entry(self, value: Value) -> Entry:
        return resolve(self.case, Request(self.method, {**self.fixed, self.knob: value}))

    def cost(self, value: Value) -> float | None:
        """None where the value gives no schedule."""
        schedule = self.entry(value).schedule
        return None if schedule is None else self.kind.measure(self.case, schedule)

    def why(self, value: Value) -> str:
        return self.entry(value).reason


def _layers(case: Case) -> int:
    return case.model.text.num_hidden_layers


def _unmet(request: Request, knob: str, value: Value, reached: str) -> Entry:
    reason = f"cannot meet the budget: {reached}, at {knob} {show_value(value)}"
    return Entry(request.method, request.given, reason=reason)


def _entry(found: Entry, kind: Kind, budget: float, cost: float) -> Entry:
    return Entry(
        found.method,
        found.parameters,
        found.schedule,
        budget={"budget": budget, "budget.reached": cost, "budget.share": cost / budget},
    )


