"""The tables of accuracy: of schedules, and of methods at equal budgets."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import fill

from rich.console import Group, RenderableType

from aim_cost.render import table
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import mega
from aim_runtime.answers.accuracy import ALL, Accuracy
from aim_runtime.answers.at_budgets import Missed
from aim_runtime.answers.interval import Interval

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
    """A row for each method and budget; below it what cannot be met, and what does not run."""
    overall = [line for line in lines if line.kind == ALL]
    cells = [
        (
            line.at.method if line.at else line.schedule.label(),
            f"{100 * line.at.budget:g} %" if line.at else "-",
            _percent(line.at.used) if line.at else "-",
            f"{mega(line.llm_flops):.0f}",
            _percent(line.share.value),
            _points(line.to_random),
            _points(line.to_uniform),
        )
        for line in overall
        if line.at or line.schedule == Schedule()
    ]
    cells += [
        (one.method, f"{100 * one.budget:g} %", "cannot", "-", "-", "-", "-")
        for one in missed
        if one.budget is not None
    ]
    columns = ("method", "budget", "used", "MFLOPs", "right", "to random", "to uniform")
    note = (
        f"{questions} questions; percent, and points of difference to random and uniform selection "
        "at the same budget, on the same questions. budget: the share of the visual tokens whose "
        f"keeping before the LLM costs as much; used: of it. {_STAR}"
    )
    shown = table("Accuracy of methods at equal budgets", columns, cells, note)
    return Group(shown, *_reasons(missed))


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
    return f"{100 * difference.value:+.1f}{'*' if difference.leaves_out_zero else ' '}"
