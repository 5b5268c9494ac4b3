"""Accuracy over FLOPs and over TTFT; each method is compared with the baseline of its paper."""

from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from aim_cost.case import Estimate
from aim_cost.checks import one_of
from aim_cost.errors import SpecError
from aim_cost.models.workload import Workload
from aim_cost.papers.accuracy import benchmark_title, published_accuracy, sampling_note
from aim_cost.plots.registry import Request, plot
from aim_cost.plots.style import COLOURS, PAGE, device, finish, new_figure
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.evidence import is_of
from aim_cost.studies.own_accuracy import read_scores
from aim_cost.units import milli, tera

_KNOWN: dict[str, Any] = {
    "no reduction": "o",
    "AIM": "^",
    "AIM, merging alone": "s",
    "AIM, pruning alone": (4, 1, 0),
    "FastV": "D",
    "VTW": "d",
    "PyramidDrop": "h",
    "PruMerge": "P",
    "DyCoke": "X",
    "VisionZip": "*",
    "VisionZip, per frame": "<",
    "FastVID": ">",
    "PruneVid": "p",
    "HoliTom": "v",
}
_OTHERS = ("$a$", "$b$", "$c$", "$d$", "$e$", "$f$", "$g$", "$h$", "$i$", "$j$", "$k$", "$m$")
_FLOOR = -9.0  # points; what lies below is drawn at the edge with its number
_FRONTS = {"published": "-", "own": "--"}


def pareto_points(accuracy: pd.DataFrame, benchmark: str, baseline: Estimate) -> pd.DataFrame:
    """What ``pareto`` draws: rows of one benchmark, priced on the device of ``baseline``.

    Args: accuracy, COLUMNS of ``aim_cost.papers.accuracy``; baseline, no reduction, the reference.
    Returns: source, method, budget, evidence, accuracy_difference (points), flops (merging, LLM
    and scoring, as executed), ttft_s, known: whether the schedule is. Where it is not, flops is
    the share that the paper prints of its own baseline, and ttft_s is missing.
    """
    rows = []
    for row in accuracy[accuracy["benchmark"] == benchmark].to_dict("records"):
        if not is_of(row["model"], baseline.model):
            continue
        point = {name: row[name] for name in ("source", "method", "budget", "evidence")}
        point["accuracy_difference"] = row["difference"]
        if pd.notna(row["schedule"]):
            frames = baseline.workload.frames if pd.isna(row["frames"]) else int(row["frames"])
            schedule = Schedule.parse(row["schedule"], row["source"])
            result = _priced(baseline, schedule, frames)
            rows.append(
                point | {"flops": after_vision(result), "ttft_s": result.ttft_s, "known": True}
            )
        elif pd.notna(row["published_share"]):
            flops = row["published_share"] * after_vision(baseline)
            rows.append(point | {"flops": flops, "ttft_s": None, "known": False})
    columns = ["source", "method", "budget", "evidence"]
    columns += ["accuracy_difference", "flops", "ttft_s", "known"]
    return pd.DataFrame(rows, columns=columns)


def _priced(baseline: Estimate, schedule: Schedule, frames: int | None) -> Estimate:
    workload = Workload(baseline.workload.text_tokens, frames=frames, batch=baseline.workload.batch)
    return replace(baseline.case, workload=workload).price(schedule, baseline.convention)


def after_vision(result: Estimate) -> int:
    """FLOPs of merging, LLM and scoring, under the convention of ``result``."""
    return result.flops - result.phase("vision").flops


def pareto(points: pd.DataFrame, benchmark: str, baseline: Estimate) -> Figure:
    """FLOPs after the vision tower (left) and TTFT (right), each over the accuracy difference.

    A marker a method, a colour a source; own rows have a black edge and a front of their own.
    Args: points, of ``pareto_points`` or with its columns.
    """
    methods = list(dict.fromkeys(points["method"]))
    sources = list(dict.fromkeys(points["source"]))
    figure, panels = new_figure(PAGE, 4.4 + 0.06 * len([*methods, *sources]), panels=2, sharey=True)
    colours = dict(zip(sources, cycle(COLOURS), strict=False))
    others = cycle(_OTHERS)
    markers = {name: _KNOWN.get(name) or next(others) for name in methods}
    for axis, column, scale in zip(panels, ("flops", "ttft_s"), (tera, milli), strict=True):
        for row in points[points[column].notna()].to_dict("records"):
            _point(axis, row, scale(row[column]), markers[row["method"]], colours[row["source"]])
        for evidence, line in _FRONTS.items():
            front = pareto_front(points[points["evidence"] == evidence], column)
            axis.step(
                [scale(x) for x in front[column]],
                front["accuracy_difference"],
                where="post",
                color="0.35",
                linewidth=1,
                linestyle=line,
                zorder=1,
            )
        axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    low = max(_FLOOR, points["accuracy_difference"].min())
    panels[0].set_ylim(low - 0.6, max(points["accuracy_difference"].max(), 0) + 0.6)
    panels[0].set_xlabel("TFLOPs after the vision tower")
    panels[1].set_xlabel("time to first token (ms)")
    panels[0].set_ylabel("accuracy - own baseline (points)")
    keys = _keys(points, markers, colours)
    workload = baseline.workload
    title = f"{benchmark_title(benchmark)}, {device(baseline)}\n"
    title += f"{workload.text_tokens} text tokens, batch {workload.batch}"
    small = (
        "FLOPs recomputed as executed where the schedule is known; hollow: it is not, share as "
        "printed by the paper. Times predicted: "
        f"{baseline.ttft.source.noun}. Steps: Pareto front (own rows: dashed). "
        f"{sampling_note(benchmark)}"
    )
    if "own" in set(points["evidence"]):
        small += f" Own rows without frames: as of {workload.frames}."
    return finish(figure, title, small, keys)


@plot("pareto", "accuracy over FLOPs and over TTFT, published and own")
def _draw(request: Request) -> Figure:
    baseline, benchmark = request.case().price(), request.benchmark
    scores = published_accuracy()
    own = read_scores(request.accuracy)
    one_of(benchmark, {*scores["benchmark"], *own.by_benchmark}, "--benchmark", SpecError)
    if benchmark in own.by_benchmark:
        scores = pd.concat(
            [scores, own.table(benchmark, baseline.workload.frames)], ignore_index=True
        )
    points = pareto_points(scores, benchmark, baseline)
    if points.empty:
        raise SpecError(
            "--model",
            expected=f"a model with scores of {benchmark}",
            got=baseline.model.name,
            fix=f"Known: {', '.join(set(scores['model'].dropna()))}; or give --accuracy.",
        )
    return pareto(points, benchmark, baseline)


def pareto_front(points: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows that no other row beats: less of ``column`` costs accuracy. Rising in both."""
    known = points[points[column].notna() & points["known"]]
    ordered = known.sort_values([column, "accuracy_difference"], ascending=[True, False])
    best = ordered["accuracy_difference"].cummax()
    return ordered[best > best.shift(fill_value=float("-inf"))]


def _point(axis: Any, row: dict[Any, Any], x: float, marker: Any, colour: str) -> None:
    own = row["evidence"] == "own"
    y = row["accuracy_difference"]
    axis.plot(
        x,
        max(y, _FLOOR),
        marker=marker,
        color=colour,
        markerfacecolor=colour if row["known"] else "white",
        markeredgecolor="black" if own else colour,
        markersize=8 if own else 6,
        linestyle="",
    )
    if y < _FLOOR:
        place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(f"{y:.1f}", (x, _FLOOR), fontsize=7, **place)


def _keys(
    points: pd.DataFrame, markers: dict[str, Any], colours: dict[str, str]
) -> tuple[list[Line2D], list[str]]:
    by_method = [
        Line2D([], [], linestyle="", marker=marker, color="0.4") for marker in markers.values()
    ]
    by_source = [Line2D([], [], color=colour, linewidth=5) for colour in colours.values()]
    names = [source.partition(",")[0] + "'s paper" for source in colours]
    owns = set(points[points["evidence"] == "own"]["source"])
    names = [Path(s).name if s in owns else n for s, n in zip(colours, names, strict=True)]
    return by_method + by_source, [*markers, *names]
