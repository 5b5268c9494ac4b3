"""Where a schedule pays on a device: speedup over frames and text tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from aim_cost.case import Estimate
from aim_cost.models.workload import Workload
from aim_cost.plots.registry import Request, plot
from aim_cost.plots.style import PAGE, device, finish, new_figure

FRAMES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
TEXT_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Payoff:
    """TTFT of no reduction over that of a schedule.

    Shapes: speedup, host_bound [text_tokens, frames]; host_bound: the reduced LLM waits for the
    host more than it computes.
    """

    result: Estimate
    frames: Sequence[int]
    text_tokens: Sequence[int]
    speedup: NDArray[np.float64]
    host_bound: NDArray[np.bool_]


def payoff(
    result: Estimate,
    frames: Sequence[int] = FRAMES,
    text_tokens: Sequence[int] = TEXT_TOKENS,
) -> Payoff:
    """Price the schedule of ``result``, and no reduction, for every pair of sizes."""
    speedup = np.empty((len(text_tokens), len(frames)))
    host_bound = np.empty(speedup.shape, dtype=bool)
    for row, text in enumerate(text_tokens):
        for column, count in enumerate(frames):
            workload = Workload(text, frames=count, batch=result.workload.batch)
            case = replace(result.case, workload=workload)
            reduced = case.price(result.schedule, result.convention)
            speedup[row, column] = reduced.baseline.ttft_s / reduced.ttft_s
            host_bound[row, column] = reduced.time("llm").bound == "host"
    return Payoff(result, frames, text_tokens, speedup, host_bound)


def break_even(data: Payoff) -> Figure:
    """Contours of the speedup; the thick one is 1. Hatched: the reduced LLM is host-bound."""
    figure, axis = new_figure(PAGE, 4.2)
    sizes = np.array(data.frames), np.array(data.text_tokens)
    axis.set(xscale="log", yscale="log")
    span = max(abs(np.log2(data.speedup)).max(), 0.1)
    filled = axis.contourf(
        *sizes,
        np.log2(data.speedup),
        levels=np.linspace(-span, span, 17),
        cmap=_PALE,
    )
    low, high = data.speedup.min(), data.speedup.max()
    steps = [level for level in _LEVELS if low < level < high and level != 1]
    lines = axis.contour(*sizes, data.speedup, levels=steps, colors="0.25", linewidths=0.7)
    for label in axis.clabel(lines, fmt=lambda level: f"{level:g}x", fontsize=8, colors="black"):
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    keys: dict[str, Any] = {}
    if low < 1 < high:
        axis.contour(*sizes, data.speedup, levels=[1], colors="black", linewidths=2.2)
        keys["break-even, 1x"] = Line2D([], [], color="black", linewidth=2.2)
    if data.host_bound.any():
        waits = data.host_bound.astype(float)
        area = axis.contourf(*sizes, waits, levels=[0.5, 1.5], colors="none", hatches=["//"])
        area.set_edgecolor("0.25")
        area.set_linewidth(0)
        keys[_HOST] = Patch(facecolor="none", edgecolor="0.25", hatch="///")
    axis.set_xticks(sizes[0], [str(size) for size in sizes[0]])
    axis.set_yticks(sizes[1], [str(size) for size in sizes[1]])
    axis.minorticks_off()
    axis.grid(visible=False)
    axis.set_xlabel("frames")
    axis.set_ylabel("text tokens")
    bar = figure.colorbar(filled, ax=axis, ticks=np.log2(_LEVELS))
    bar.ax.set_yticklabels([f"{level:g}x" for level in _LEVELS], fontsize=8)
    bar.ax.set_ylim(-span, span)
    bar.set_label("TTFT of no reduction / of the schedule", fontsize=8)
    result = data.result
    title = f"{device(result)}, batch {result.workload.batch}\nschedule: {result.schedule.label()}"
    verdict = (
        "pays everywhere" if low >= 1 else "pays nowhere" if high <= 1 else "breaks even at 1x"
    )
    small = (
        f"The schedule {verdict} in this range. Predicted, not measured: "
        f"{result.ttft.source.noun}; {data.speedup.size} sizes."
    )
    return finish(figure, title, small, (list(keys.values()), list(keys)) if keys else None)


@plot("break-even", "where a schedule pays, over frames and text tokens")
def _draw(request: Request) -> Figure:
    return break_even(payoff(request.estimate()))


_HOST = "the reduced LLM waits for the host more than it computes"
# without the dark ends, on which lines and hatches would not be seen
_PALE = ListedColormap(colormaps["PuOr_r"](np.linspace(0.2, 0.8, 256)))
_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4, 6)
