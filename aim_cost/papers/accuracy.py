"""Accuracy under token reduction as papers print it, each row with its source."""

import math
from collections.abc import Iterator
from importlib import resources
from typing import Any, cast

import pandas as pd

from aim_cost.conventions.convention import get_convention
from aim_cost.files.text import text_of
from aim_cost.files.yaml_text import yaml_tree
from aim_cost.papers.efficiency import published_rows
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import si

COLUMNS = (
    *("evidence", "source", "model", "method", "frames", "schedule", "budget"),
    *("benchmark", "accuracy", "baseline", "difference", "ci_low", "ci_high", "n"),
    *("scale", "lower_is_better"),
    *("published_llm_flops", "published_share", "note"),
)
"""The columns of a table of accuracy; unknown entries are missing (``pd.isna``).

evidence: ``published``, or ``own`` for a user's rows; the two are never mixed in one answer.
schedule: what ``Schedule.label`` prints, None where the paper leaves it open.
accuracy, baseline, ci_low, ci_high: percent, or the benchmark's own points where scale is
``points``. baseline: the same source's score with no reduction. difference: accuracy - baseline,
points; baseline - accuracy where lower_is_better, so that more is better. n: questions.
published_llm_flops: as the paper counts them, two per multiply-add; published_share: of its
unreduced model under the same convention.
"""

UNCLEAR = "printed FLOPs follow another schedule than the one printed beside them"


def published_accuracy() -> pd.DataFrame:
    """All published rows, COLUMNS; the unreduced models are rows too."""
    table = _table()
    rows = [row for paper in table["papers"] for row in _paper_rows(paper)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"frames": "Int64"})


def benchmark_title(name: str) -> str:
    """The usual spelling of a benchmark's name; an unknown name stays as it is."""
    return str(_benchmarks().get(name, {}).get("title", name))


def sampling_note(name: str, questions: int | None = None) -> str:
    """A sentence on the sampling error of a score; empty for an unknown number of questions.

    Args: questions, those that the score is over; by default all of the benchmark.
    """
    questions = questions or _benchmarks().get(name, {}).get("questions")
    if questions is None:
        return ""
    points = 100 * 1.96 * math.sqrt(0.25 / questions)
    return f"A score over {questions:,} questions carries ±{points:.1f} points (95 %, binomial)."


def method_of(schedule: Schedule) -> str:
    """AIM's name for what a schedule does; the label of one that is not AIM's."""
    merge, prune = schedule.merge, schedule.prune
    others = [
        schedule.select is not None,
        schedule.vision_merge is not None,
        schedule.sample is not None,
        merge is not None and merge.by != Merge.by,
        prune is not None and prune.importance != Prune.importance,
    ]
    if any(others):
        return schedule.label()
    names = {
        (False, False): "no reduction",
        (True, False): "AIM, merging alone",
        (False, True): "AIM, pruning alone",
        (True, True): "AIM",
    }
    return names[merge is not None, prune is not None]


def _benchmarks() -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], _table()["benchmarks"])


def _table() -> dict[str, Any]:
    file = resources.files("aim_cost.papers") / "accuracy.yaml"
    return cast(dict[str, Any], yaml_tree(text_of(file)))


def _paper_rows(paper: dict[str, Any]) -> Iterator[dict[str, Any]]:
    joined = list(_efficiency_rows()) if paper.get("joined") else []
    unreduced = {row["benchmark"]: row["accuracy"] for row in joined if row["schedule"] == "none"}
    baseline = paper["baseline"] | unreduced
    first = {"method": "no reduction", "budget": "100 %", "schedule": {}}
    counts = {"count": paper.get("count"), "accuracy": paper["baseline"]}
    rows = [first | counts, *paper["rows"]]
    lines = [line for row in rows for line in _lines(paper, row)]
    for row in [*joined, *lines]:
        points = row["accuracy"] - baseline[row["benchmark"]]
        yield row | {
            "evidence": "published",
            "source": paper["source"],
            "baseline": baseline[row["benchmark"]],
            "difference": round(points, 1),  # both are printed with one decimal
            "scale": "percent",
            "lower_is_better": False,
        }


def _lines(paper: dict[str, Any], row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line a benchmark."""
    schedule, flops, share = row.get("schedule"), None, None
    if row.get("count") is not None:
        macs = 2 if get_convention(paper["convention"]).counts_macs else 1
        flops = macs * si(float(row["count"]), "T")
        share = float(row["count"]) / float(paper["count"])
    for benchmark, accuracy in row["accuracy"].items():
        yield {
            "model": paper["model"],
            "method": row["method"],
            "frames": row.get("frames", paper["frames"]),
            "schedule": None if schedule is None else Schedule.from_dict(schedule).label(),
            "budget": row["budget"],
            "benchmark": benchmark,
            "accuracy": accuracy,
            "published_llm_flops": flops,
            "published_share": share,
            "note": row.get("derived", ""),
        }


def _efficiency_rows() -> Iterator[dict[str, Any]]:
    """AIM's efficiency table, whose rows carry VideoMME."""
    rows = [row for row in published_rows() if row.videomme is not None]
    unreduced = float(next(row.tflops for row in rows if row.schedule == Schedule()))
    for row in rows:
        yield {
            "model": row.model,
            "method": method_of(row.schedule),
            "frames": row.workload.frames,
            "schedule": None if row.reproduced_by else row.schedule.label(),
            "budget": row.label,
            "benchmark": "videomme",
            "accuracy": row.videomme,
            "published_llm_flops": si(float(row.tflops), "T"),
            "published_share": float(row.tflops) / unreduced,
            "note": UNCLEAR if row.reproduced_by else "",
        }
