"""The tables of accuracy: of schedules, and of methods at equal budgets."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import fill

from rich.console import Group, RenderableType

from aim_cost.render import table, wrapped
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import mega
from aim_runtime.answers.accuracy import ALL, Accuracy
from aim_runtime.answers.at_budgets import Missed
from aim_runtime.answers.interval import Interval
from aim_runtime.answers.standing import Standing

_STAR = "* the 95 % interval leaves 0 out."


def schedules_table(lines: Sequence[Accuracy], questions: int) -> RenderableType:
    """A row for each schedule."""
    cells = [
        (
            line.schedule.label(),
            f"{mega(line.llm_flops):.0f}",
            _percent(line.share.value),
            f"{100 * line.share.low:.0f} - {100 * line.share.high:.0f}",
            _points(line.difference),
            _points(line.random_difference),
        )
        for line in lines
        if line.kind == ALL and line.at is None
    ]
    columns = ("schedule", "MFLOPs", "right", "95 %", "to none", "to random")
    note = (
        f"{questions} questions; percent, and points of difference on the same questions. "
        f"MFLOPs of the LLM with scoring, one prompt. {_STAR}"
    )
    return table("Accuracy under schedules", columns, cells, note)


def methods_table(
    lines: Sequence[Accuracy], missed: Sequence[Missed], questions: int
) -> RenderableType:
    """A table for each budget, best first, with who beats chance; then why others have no row."""
    overall = [line for line in lines if line.kind == ALL]
    unreduced = [line for line in overall if line.at is None and line.schedule == Schedule()]
    at_budgets = [(line.at, line) for line in overall if line.at is not None]
    shares = list(dict.fromkeys(at.budget for at, _ in at_budgets))
    compared = sum(line.to_random is not None for _, line in at_budgets)
    shown: list[RenderableType] = []
    for share in shares:
        chosen = [line for at, line in at_budgets if at.budget == share]
        ordered = sorted(chosen, key=lambda line: line.share.value, reverse=True)
        title = f"Accuracy of methods at a budget of {100 * share:g} %"
        columns = ("method", "used", "MFLOPs", "right", "95 %", "to random", "to uniform")
        cells = [_method_cells(line, compared) for line in (*unreduced, *ordered)]
        shown += [table(title, columns, cells), *_standings(ordered), ""]
    note = (
        f"{questions} questions; percent, and points of difference to random and uniform selection "
        "at the same budget, on the same questions, with 95 % intervals. budget: the share of the "
        "visual tokens whose keeping before the LLM costs as much; used: of it, percent. MFLOPs of "
        f"the LLM with scoring, one prompt. {_STAR} ** It does so too where all {compared} "
        "differences of a column are to hold together (Bonferroni)."
    )
    return Group(*shown, wrapped(note), *_reasons(missed))


def _method_cells(line: Accuracy, among: int) -> tuple[str, ...]:
    return (
        line.at.method if line.at else line.schedule.label(),
        f"{100 * line.at.used:.0f}" if line.at else "-",
        f"{mega(line.llm_flops):.0f}",
        _percent(line.share.value),
        f"{100 * line.share.low:.0f} - {100 * line.share.high:.0f}",
        _paired(line.to_random, among),
        _paired(line.to_uniform, among),
    )


def _standings(lines: Sequence[Accuracy]) -> Iterator[str]:
    """Who is better than each baseline at one budget, who is worse; how many would be by lot."""
    to_random = {line.at.method: line.to_random for line in lines if line.at and line.to_random}
    to_uniform = {line.at.method: line.to_uniform for line in lines if line.at and line.to_uniform}
    for baseline, differences in (("random", to_random), ("uniform", to_uniform)):
        if not differences:
            continue
        found = Standing.of(differences)
        yield wrapped(
            f"{_count(found.better)} of {found.compared} better than {baseline}"
            f"{_list(found.better)}. {_count(found.worse)} worse{_list(found.worse)}. "
            f"{_count(found.open)} not told from it{_list(found.open)}. By chance alone "
            f"{found.better_by_chance:.1f} would be better, and as many worse."
        )


def _count(names: Sequence[str]) -> str:
    return str(len(names)) if names else "None"


def _list(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


def _reasons(missed: Sequence[Missed]) -> Iterator[str]:
    """A paragraph for each method and reason."""
    for (method, reason), same in groupby(missed, key=lambda one: (one.method, one.reason)):
        budgets = [f"{100 * one.budget:g} %" for one in same if one.budget is not None]
        where = f" at {', '.join(budgets)}" if budgets else " does not run"
        yield fill(f"{method}{where}: {reason}", 80, subsequent_indent="  ")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(difference: Interval | None) -> str:
    if difference is None:
        return "-"
    return f"{100 * difference.value:+.1f}{'*' if difference.leaves_out_zero() else ' '}"


def _paired(difference: Interval | None, among: int) -> str:
    """``+4.1±1.1*``; two stars where it is one of ``among`` that hold together."""
    if difference is None:
        return "-"
    stars = "*" * (difference.leaves_out_zero() + difference.leaves_out_zero(max(among, 1)))
    points = round(100 * difference.value, 1) + 0.0  # no minus before a zero
    return f"{points:+.1f}±{100 * difference.half:.1f}{stars:2}"
