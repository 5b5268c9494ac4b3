"""The picture of a validation: TTFT predicted over measured, and where the time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_cost.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILION,
    finish,
    new_figure,
    save,
)
from aim_cost.units import milli
from aim_runtime.validation.comparison import Comparison

_PARTS = (
    ("vision tower", BLUE, ("vision.tower",)),
    ("projector, pooling", SKY, ("vision.projector", "vision.pooling")),
    ("merging", GREEN, ("merge",)),
    ("LLM layers", ORANGE, ("llm.layers",)),
    ("LLM head", VERMILION, ("llm.head",)),
    ("importance", PURPLE, ("importance",)),
)


def validation_plot(rows: Sequence[Comparison], path: Path, title: str) -> None:
    """Write a .png, .pdf or .svg. Raises: SpecError for another suffix."""
    timed = [row for row in rows if row.measured.ttft_s]
    figure, (left, right) = new_figure(PAGE * 1.5, 4.8, panels=2, width_ratios=(1, 1.5))
    _times(left, timed)
    _shares(right, timed)
    small = "Bars, pale: predicted; full: measured, medians. Whiskers: 90 % band and quartiles."
    save(finish(figure, title, small, right.get_legend_handles_labels()), path)


def _times(axis: Any, rows: Sequence[Comparison]) -> None:
    """TTFT predicted over measured."""
    ttfts = [row.counts.predicted.ttft for row in rows]
    predicted = [milli(ttft.time_s) for ttft in ttfts]
    clocks = [_clock(row) for row in rows]
    measured = [middle for middle, _, _ in clocks]
    quartiles = [[middle - low for middle, low, _ in clocks], [high - m for m, _, high in clocks]]
    band = None
    highs = [ttft.high_s for ttft in ttfts if ttft.high_s is not None]
    if len(highs) == len(ttfts):
        band = [
            [milli(ttft.time_s - ttft.low_s) for ttft in ttfts],
            [milli(high_s - ttft.time_s) for ttft, high_s in zip(ttfts, highs, strict=True)],
        ]
    limit = 1.08 * max([*predicted, *measured, 1e-9])
    axis.plot([0, limit], [0, limit], color=GREY, linewidth=0.8)
    axis.errorbar(
        measured, predicted, xerr=quartiles, yerr=band, fmt="o", color=BLUE, linewidth=0.8
    )
    axis.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    axis.set(xlabel="measured TTFT (ms)", ylabel="predicted TTFT (ms)")


def _clock(row: Comparison) -> tuple[float, float, float]:
    """Median and quartiles of the measured TTFT, milliseconds."""
    times_s = row.measured.ttft_s, row.measured.ttft_low_s, row.measured.ttft_high_s
    middle, low, high = (milli(time_s or 0.0) for time_s in times_s)
    return middle, low, high


def _shares(axis: Any, rows: Sequence[Comparison]) -> None:
    """Where the time goes, a pair of bars a schedule: measured above, predicted below."""
    for sign, alpha, seconds in ((-1, 1.0, _measured_s), (1, 0.45, Comparison.predicted_s)):
        places = [place + sign * 0.2 for place in range(len(rows))]
        start = [0.0] * len(rows)
        for label, colour, phases in _PARTS:
            width = [milli(sum(seconds(row, phase) for phase in phases)) for row in rows]
            axis.barh(
                places,
                width,
                left=start,
                height=0.36,
                color=colour,
                alpha=alpha,
                label=label if sign < 0 else None,
            )
            start = [a + b for a, b in zip(start, width, strict=True)]
    axis.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("ms; upper bar measured, lower and paler bar predicted")


def _measured_s(row: Comparison, phase: str) -> float:
    return row.measured_s(phase) or 0.0
