"""The tables of ``aim-cost methods --scores``: all ways to rank visual tokens."""

from rich.console import Group, RenderableType

from aim_cost.ops.score import Score
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.render import Row, table
from aim_cost.schedules.executed import why_not_run
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.select import Select


def score_rows() -> list[Row]:
    """One row a score, for programs; ``part`` is the part of a schedule that takes it."""
    before = [
        _row("select", score, Schedule(select=Select(retention=0.5, by=score.name)))
        for score in VISUAL_SCORES.values()
    ]
    inside = [
        _row("prune", score, Schedule(prune=Prune(ratios=(1, 0.5), importance=score.name)))
        for score in LAYER_SCORES.values()
    ]
    return before + inside


def scores_table() -> RenderableType:
    """A table for each part of a schedule, then the reasons why some of its scores do not run."""
    tables: list[RenderableType] = []
    for part, title in (("select", "Before the LLM"), ("prune", "Inside the LLM")):
        rows = [row for row in score_rows() if row["part"] == part]
        lines = [
            (row["name"], "yes" if row["runs"] else "-", row["summary"], row["source"])
            for row in rows
        ]
        refused: dict[str, list[str]] = {}
        for row in rows:
            if not row["runs"]:
                refused.setdefault(row["why_not_run"], []).append(row["name"])
        note = "; ".join(
            f"{'all' if len(names) == len(rows) else ', '.join(names)} ({reason})"
            for reason, names in refused.items()
        )
        note = f"Priced and not run by aim_runtime: {note}."
        columns = ("name", "runs", "ranks tokens by", "source")
        made = table(f"{title}: {part} score=NAME", columns, lines, note)
        for column in made.columns:
            column.justify = "left"
        tables += [made, ""]
    return Group(*tables[:-1])


def _row(part: str, score: Score, schedule: Schedule) -> Row:
    refused = why_not_run(schedule)
    return {
        "part": part,
        "name": score.name,
        "summary": score.summary,
        "source": score.source,
        "runs": refused is None,
        "why_not_run": refused.reason if refused else "",
    }
