"""The picture of a campaign: errors, gains against FLOPs, where the time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aim_cost.plots.style import COLOURS, GREY, PAGE, finish, new_figure, save
from aim_cost.units import milli
from aim_runtime.campaigns.errors import gains
from aim_runtime.campaigns.prediction import Way
from aim_runtime.campaigns.table import short_label
from aim_runtime.measurement.run_kind import RunKind

if TYPE_CHECKING:
    from aim_runtime.campaigns.report import Joined

_PHASES = {
    "vision": "vision",
    "merge": "merging",
    "llm": "LLM",
    "importance": "importance",
    "other": "other",
}


def report_plot(rows: "Sequence[Joined]", path: Path) -> None:
    """Write a PNG, PDF or SVG of the rows of a report."""
    figure, (times, gains, shares) = new_figure(PAGE * 1.5, 4.2, panels=3)
    _times(times, rows)
    _gains(gains, rows)
    _shares(shares, rows)
    device, dtype = rows[0].key.hardware, rows[0].key.run.dtype
    ways = [way.value for way in Way if any(way in row.compared for row in rows)]
    small = f"Medians; predicted from {ways[-1]}, bars its 90 % band. " if ways else "Medians. "
    small += "Gains over the eager prefill without reduction."
    save(finish(figure, f"Predicted against measured on {device}, {dtype}", small), path)


def _times(axis: Any, rows: "Sequence[Joined]") -> None:
    """TTFT predicted over measured, both logarithmic."""
    for number, split in enumerate(("fit", "held out")):
        chosen = [
            (row, found)
            for row in rows
            if (found := row.best) is not None and row.held_out == bool(number)
        ]
        if not chosen:
            continue
        clock = [milli(row.ttft_s) for row, _ in chosen]
        predicted = [milli(found.span.time_s) for _, found in chosen]
        ends = [
            (found.span.time_s, found.span.low_s, found.span.high_s)
            for _, found in chosen
            if found.span.low_s is not None and found.span.high_s is not None
        ]
        band = None
        if len(ends) == len(chosen):
            band = [
                [milli(time - low) for time, low, _ in ends],
                [milli(high - time) for time, _, high in ends],
            ]
        axis.errorbar(
            clock,
            predicted,
            yerr=band,
            fmt="os"[number],
            markersize=3,
            linewidth=0.6,
            color=COLOURS[number],
            label=split,
        )
    clocks = [milli(row.ttft_s) for row in rows]
    corners = [min(clocks), max(clocks)]
    axis.plot(corners, corners, color=GREY, linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="measured TTFT, ms", ylabel="predicted TTFT, ms")
    axis.legend(frameon=False, fontsize=7)


def _gains(axis: Any, rows: "Sequence[Joined]") -> None:
    """Measured gains over the FLOP ratio: what masking, launches and scores take away."""
    runs = list(dict.fromkeys(row.key.run.execution for row in rows))
    for gain in gains(rows):
        if gain.flop_ratio is not None:
            colour = COLOURS[runs.index(gain.row.key.run.execution)]
            axis.plot(gain.flop_ratio, gain.ttft_speedup, "o", color=colour, markersize=3)
    for number, run in enumerate(runs):
        axis.plot([], [], "o", color=COLOURS[number], markersize=3, label=run)
    axis.axline((1, 1), slope=1, color=GREY, linewidth=0.8)
    axis.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(xlabel="FLOPs without over FLOPs with reduction", ylabel="measured gain in TTFT")
    axis.legend(frameon=False, fontsize=7)


def _shares(axis: Any, rows: "Sequence[Joined]") -> None:
    """Where the time goes: the largest eager prefill that was measured, schedule by schedule."""
    eager = [
        row
        for row in rows
        if row.key.run.execution is RunKind.EAGER and row.measured.phase_s["llm"]
    ]
    if not eager:
        return
    biggest = max(eager, key=lambda row: row.ttft_s)
    group = [row for row in eager if row.origin.step_number == biggest.origin.step_number]
    left = [0.0] * len(group)
    for colour, (phase, label) in zip(COLOURS, _PHASES.items(), strict=False):
        width = [milli(row.measured.phase_s[phase] or 0.0) for row in group]
        axis.barh(range(len(group)), width, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, width, strict=True)]
    names = [short_label(row.key.run.schedule, 28) for row in group]
    axis.set_yticks(range(len(group)), names, fontsize=6)
    axis.invert_yaxis()
    run = biggest.key.run
    axis.set_xlabel(f"ms, {run.model}, {run.workload.label()}")
    axis.legend(frameon=False, fontsize=7)
