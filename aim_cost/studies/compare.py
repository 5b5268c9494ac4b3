"""compare(): a comparison of methods, as each paper counts and as they run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.progress import track

from aim_cost.case import Case
from aim_cost.conventions.convention import Convention, parse_conventions
from aim_cost.methods import parse_methods
from aim_cost.render import Report, Row, console
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.budget import Budget, get_budget, meet
from aim_cost.studies.compare_table import compare_table
from aim_cost.studies.compared import Compared
from aim_cost.studies.entry import BASELINE, Entry, resolve


@dataclass(frozen=True)
class Comparison(Report):
    """What ``compare`` returns; ``print`` and notebooks show it as ``aim-cost compare`` does.

    Args:
        rows: for each method and convention, no reduction first.
        budget: what each method may cost; None where each runs with its own parameters.
    """

    case: Case
    rows: tuple[Compared, ...]
    budget: Budget | None = None

    def to_rows(self) -> list[Row]:
        """A flat row for each method and convention, SI units, no reduction first.

        ``flops`` and, where the convention counts them, ``macs`` are of the LLM with what merging
        and scores add where the convention counts those; shares are of no reduction under the same
        convention. Rows of ``executed`` also have tokens, memory, time and what the scoring costs.
        ``published`` is the figure that a paper prints for this schedule, as printed, in units of
        10**12; its text may be another: ``published.computed`` is our count at its own workload.
        ``label`` tells two entries of one method apart. ``reason`` says why a method is missing.
        """
        return [row.to_row() for row in self.rows]

    def __rich__(self) -> RenderableType:
        return compare_table(self.case, self.rows, self.budget)


def compare(
    case: Case,
    methods: str,
    conventions: str = "all",
    *,
    equal: str | None = None,
    budget: float | None = None,
) -> Comparison:
    """Price methods for one case: FLOPs by convention, tokens, memory, time and scoring.

    Args:
        methods: names with commas between, parameters after colons, schedule files, or ``all``:
            ``aim, fastv:k=3:r=0.75, mine.yaml``.
        conventions: names with commas between, or ``all``.
        equal: ``tokens``, ``flops`` or ``time``: scales one parameter of each method until the
            method costs the same.
        budget: what it may cost: tokens, 10**12 FLOPs or milliseconds; by default what AIM's
            default schedule costs.
    A method that does not fit the case or the budget says why in its row.
    Raises: ScheduleError or SpecError for unknown names and wrong parameters.
    """
    requests, counted = parse_methods(methods), parse_conventions(conventions)
    limit = get_budget(case, equal, budget)
    shown = console(error=True)
    entries = [
        resolve(case, request) if limit is None else meet(case, request, limit)
        for request in track(
            requests, "methods", console=shown, transient=True, disable=not shown.is_terminal
        )
    ]
    return Comparison(case, tuple(compared(case, entries, counted)), limit)


def compared(
    case: Case, entries: Iterable[Entry], conventions: Sequence[Convention]
) -> list[Compared]:
    """No reduction, then each entry, under each convention."""
    unreduced = [case.price(Schedule(), convention) for convention in conventions]
    rows, seen = [], Counter[str]()
    for entry in (BASELINE, *entries):
        seen[entry.name] += 1
        times = seen[entry.name]
        label = entry.name if times == 1 else f"{entry.name} ({times})"
        rows += [Compared.of(entry, label, base) for base in unreduced]
    return rows
