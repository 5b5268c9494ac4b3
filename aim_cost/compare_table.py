"""What ``aim-cost compare`` and ``aim-cost methods`` print for people."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType

from aim_cost.budget import Kind
from aim_cost.compare import Case
from aim_cost.conventions import CONVENTIONS, EXECUTED
from aim_cost.methods import METHODS, Figure, Method
from aim_cost.methods.method import COUNTS
from aim_cost.methods.parameter import show_value
from aim_cost.report import Row, table
from aim_cost.units import mega, milli, tera

_MARKS = {"static": "", "mean": " *", "assumed": " **"}


def compare_table(
    case: Case, rows: Sequence[Row], kind: Kind | None = None, budget: float = 0.0
) -> RenderableType:
    """Cost as executed, FLOPs by convention, what papers print, and the parameters."""
    priced = [row for row in rows if not row["reason"]]
    executed = [row for row in priced if row["convention"] == EXECUTED.name]
    parts: list[RenderableType] = []
    if executed:
        parts += [_executed_table(case, executed, kind, budget), ""]
    parts += [_flops_table(priced), ""]
    if any(row["published"] for row in priced):
        parts += [_published_table(priced), ""]
    return Group(*parts, *_parameters(rows), *_legend(rows))
