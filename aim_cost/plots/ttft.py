"""Time to first token as stacked bars: before and after, for schedules or devices."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from aim_cost.case import Estimate
from aim_cost.ops.op import GROUPS
from aim_cost.plots.registry import Request, plot
from aim_cost.plots.style import (
    BLUE,
    ORANGE,
    PAGE,
    SKY,
    VERMILION,
    finish,
    new_figure,
    setting,
)
from aim_cost.units import milli

_LOOKS = {
    "vision": (SKY, ""),
    "merge": (ORANGE, "xx"),
    "llm": (BLUE, ""),
    "importance": (VERMILION, "//"),
}


def ttft(results: Sequence[Estimate]) -> Figure:
    """One bar an estimate, split into vision, merging, LLM and importance; the whisker is the band.

    Args: results, estimates that differ in schedule, device or both.
    """
    figure, axis = new_figure(PAGE, 1.3 + 0.34 * len(results))
    devices = list(dict.fromkeys(result.device.name for result in results))
    starts = [0.0] * len(results)
    places = range(len(results))
    for group in GROUPS:
        widths = [milli(result.time(group).time_s) for result in results]
        colour, hatch = _LOOKS[group]
        axis.barh(
            *(places, widths),
            left=starts,
            height=0.62,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
            label="LLM" if group == "llm" else group,
        )
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    longest = max(milli(result.ttft.high_s or result.ttft_s) for result in results)
    for place, result in zip(places, results, strict=True):
        _whisker(axis, place, result, longest)
    labels = [result.schedule.label() for result in results]
    if len(devices) > 1:
        labels = [f"{result.device.name}: {result.schedule.label()}" for result in results]
    axis.set_yticks(list(places), labels)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlim(0, 1.12 * longest)
    axis.set_xlabel("time to first token (ms)")
    first = results[0]
    title = f"{first.model.name} on {', '.join(devices)}\n{setting(first)}, "
    title += f"{first.execution.dtype}, {first.mode}"
    sources = {result.device.name: result.ttft.source.noun for result in results}
    small = "; ".join(f"{name}: {source}" for name, source in sources.items())
    small = f"Predicted, not measured. {small}. Whisker: 90 % band."
    return finish(figure, title, small, axis.get_legend_handles_labels())


@plot("ttft", "time to first token, before and after")
def _draw(request: Request) -> Figure:
    return ttft(request.estimates())


def _whisker(axis, place: int, result: Estimate, longest: float) -> None:  # type: ignore[no-untyped-def]
    """Draw the band, and the total after it."""
    total, end = milli(result.ttft_s), milli(result.ttft_s)
    if result.ttft.high_s is not None:
        low, end = milli(result.ttft.low_s), milli(result.ttft.high_s)
        error = [[total - low], [end - total]]
        axis.errorbar(total, place, xerr=error, color="black", linewidth=0.9, capsize=2)
    axis.text(end + 0.015 * longest, place, f"{total:.0f}", va="center", fontsize=8)
