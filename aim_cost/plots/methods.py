"""Accuracy of methods at equal budgets, over FLOPs and over TTFT; each point has its name."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aim_cost.case import Estimate
from aim_cost.checks import one_of
from aim_cost.errors import SpecError
from aim_cost.methods import METHODS
from aim_cost.papers.accuracy import benchmark_title
from aim_cost.plots.pareto import after_vision, pareto_points
from aim_cost.plots.registry import Request, plot
from aim_cost.plots.style import (
    BLUE,
    GREEN,
    GREY,
    PAGE,
    PURPLE,
    VERMILION,
    device,
    finish,
    new_figure,
    setting,
)
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.own_accuracy import read_scores
from aim_cost.units import milli, show, si

_KINDS = {
    "before the LLM": ("o", BLUE),
    "inside it": ("s", VERMILION),
    "before and inside": ("^", GREEN),
    "in the tower": ("P", PURPLE),
    "baseline": ("D", "black"),
    "own": ("X", GREY),
}
_WHERE = {
    "before": "before the LLM",
    "inside": "inside it",
    "both": "before and inside",
    "tower": "in the tower",
}
_POINTS = 0.48  # of a panel's width; names take the rest
_NAME = 0.098  # inches a name of _SIZE points
_SIZE = 6
_LEAST_HEIGHT = 2.0  # inches of a panel


def methods(points: pd.DataFrame, baseline: Estimate, benchmark: str = "all") -> Figure:
    """A column of panels for each budget: accuracy over FLOPs above, over TTFT below.

    The dashed line is random selection before the LLM, the full one no reduction.
    Args: points, of ``pareto_points``, each with the budget that its method was given; baseline,
        no reduction; benchmark, whose scores they are.
    """
    budgets = list(dict.fromkeys(points["budget"]))
    most = max(sum(points["budget"] == budget) for budget in budgets)
    height = max(_LEAST_HEIGHT, _NAME * most)
    figure, grid = new_figure(PAGE, 1.5 + 2 * (height + 0.5), len(budgets), rows=2)
    prefix = next(one for one in "PTGMk" if after_vision(baseline) >= si(1, one))
    columns = {
        "flops": (prefix, f"{prefix}FLOPs after the vision tower"),
        "ttft_s": ("m", "time to first token (ms)"),
    }
    for panels, (column, (unit, label)) in zip(grid, columns.items(), strict=True):
        for axis, budget in zip(panels, budgets, strict=True):
            rows = points[points["budget"] == budget].sort_values("accuracy_difference")
            _panel(axis, rows, rows[column].to_numpy(dtype=float) / si(1, unit), height)
            axis.set_xlabel(label, loc="left")
        panels[0].set_ylabel("accuracy - no reduction (points)")
    for axis, budget in zip(grid[0], budgets, strict=True):
        axis.set_title(f"budget {budget}", fontsize=8, loc="left")
    small = (
        "Dashed: random selection before the LLM at the same budget. FLOPs as executed: merging, "
        f"LLM and scoring; no reduction: {show(after_vision(baseline), 'FLOPs', 0)}, "
        f"{milli(baseline.ttft_s):.2f} ms. Times predicted: {baseline.ttft.source.noun}."
    )
    seen = {_kind(name) for name in points["method"]}
    keys = {
        kind: Line2D([], [], linestyle="", marker=marker, color=colour, markersize=5)
        for kind, (marker, colour) in _KINDS.items()
        if kind in seen
    }
    title = f"{device(baseline)}\n{setting(baseline)}; scores: {benchmark_title(benchmark)}"
    return finish(figure, title, small, (list(keys.values()), list(keys)))


@plot("methods", "accuracy of methods at equal budgets, over FLOPs and over TTFT")
def _draw(request: Request) -> Figure:
    baseline = request.case().price()
    own = read_scores(request.accuracy)
    name = one_of(request.benchmark, own.by_benchmark, "--benchmark", SpecError)
    table = own.table(name, baseline.workload.frames)
    points = pareto_points(table[table["schedule"] != Schedule().label()], name, baseline)
    if points.empty:
        raise SpecError(
            "--model",
            expected=f"a model with scores of {name}",
            got=baseline.model.name,
            fix=f"Known: {', '.join(table['model'].dropna().unique())}.",
        )
    return methods(points, baseline, name)


def _kind(name: str) -> str:
    """The kind of a method by its name, with or without parameters."""
    found = METHODS.get(name.partition(":")[0])
    if found is None:
        return "own"
    return _WHERE[found.where] if found.arxiv else "baseline"


def _panel(axis: Axes, rows: pd.DataFrame, x: NDArray[np.float64], height: float) -> None:
    """The points of one budget at x, and to their right the names, ``height`` inches in all."""
    y = rows["accuracy_difference"].to_numpy(dtype=float)
    width = max(x.max() - x.min(), 0.02 * x.max())
    left = x.min() - 0.06 * width
    axis.set_xlim(left, left + 1.12 * width / _POINTS)
    ticks = MaxNLocator(3).tick_values(left, x.max())
    axis.set_xticks([tick for tick in ticks if left <= tick <= x.max() + 0.1 * width])
    axis.grid(visible=False)
    margin = 0.04 * max(0.05, max(y.max(), 0) - min(y.min(), 0))
    axis.set_ylim(min(y.min(), 0) - margin, max(y.max(), 0) + margin)
    levels = rows.loc[rows["method"] == "random", "accuracy_difference"]
    for level, line in [(0.0, "-"), *((level, "--") for level in levels)]:
        axis.axhline(level, xmax=_POINTS, color="0.4", linewidth=0.8, linestyle=line, zorder=0)
    low, high = axis.get_ylim()
    places = low + (high - low) * spread((y - low) / (high - low), _NAME / height)
    beside = axis.get_yaxis_transform()
    to_axes = axis.transData + axis.transAxes.inverted()
    for name, at_x, at_y, place in zip(rows["method"], x, y, places, strict=True):
        marker, colour = _KINDS[_kind(name)]
        axis.plot(at_x, at_y, marker=marker, color=colour, markersize=3.5, linestyle="")
        start = to_axes.transform((at_x, at_y))[0]
        leader = ([start, _POINTS + 0.02, _POINTS + 0.12], [at_y, at_y, place])
        axis.plot(*leader, color="0.75", linewidth=0.4, transform=beside, zorder=1)
        axis.text(
            _POINTS + 0.13,
            place,
            name,
            color=colour,
            fontsize=_SIZE,
            transform=beside,
            va="center",
            clip_on=False,
        )


def spread(wanted: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Places in [0, 1], ``gap`` from each other and half of it from the ends, or more.

    They lie as near to ``wanted`` (rising) as can be: neighbours that would touch stand around
    their mean. Where there is no room for all, the gaps are equal.
    """
    gap = min(gap, 1 / len(wanted))
    offsets = gap * np.arange(len(wanted))
    blocks: list[tuple[float, int]] = []  # mean of wanted - offset, and how many
    for value in wanted - offsets:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, others = blocks.pop()
            mean = (mean * count + before * others) / (count + others)
            count += others
        blocks.append((mean, count))
    places = np.concatenate([np.full(count, mean) for mean, count in blocks])
    return np.asarray(np.clip(places, gap / 2, 1 - gap / 2 - offsets[-1]) + offsets)
