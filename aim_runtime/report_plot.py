"""The picture of a campaign: errors, gains against FLOPs, where the time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_cost.plots.style import COLOURS, GREY, PAGE, finish, new_figure, save
from aim_cost.units import milli
from aim_runtime.agreement import Row
from aim_runtime.campaign_report import last_prediction, speedup_rows

_PHASES = {
    "vision": ("vision.time_s",),
    "merging": ("merge.time_s",),
    "LLM": ("llm.time_s",),
    "importance": ("importance.time_s",),
    "other": ("other.time_s",),
}


def report_plot(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG, PDF or SVG of rows as ``joined_rows`` gives them."""
    figure, (times, gains, shares) = new_figure(PAGE * 1.5, 4.2, panels=3)
    _times(times, rows)
    _gains(gains, rows)
    _shares(shares, rows)
    device, dtype = rows[0]["hardware"], rows[0]["dtype"]
    name = next(list(row["predictions"])[-1] for row in rows if row["predictions"])
    small = f"Medians; predicted from {name}, bars its 90 % band. Gains over the eager prefill "
    small += "without reduction."
    save(finish(figure, f"Predicted against measured on {device}, {dtype}", small), path)


def _times(axis: Any, rows: Sequence[Row]) -> None:
    """TTFT predicted over measured, both logarithmic."""
    for number, split in enumerate(("fit", "held out")):
        chosen = [
            (row, found)
            for row in rows
            if (found := last_prediction(row)) and row["held_out"] == bool(number)
        ]
        if not chosen:
            continue
        clock = [milli(row["ttft_s"]) for row, _ in chosen]
        predicted = [milli(found["time_s"]) for _, found in chosen]
        band = None
        if all(found["high_s"] is not None for _, found in chosen):
            band = [
                [milli(found["time_s"] - found["low_s"]) for _, found in chosen],
                [milli(found["high_s"] - found["time_s"]) for _, found in chosen],
            ]
        axis.errorbar(
            *(clock, predicted),
            yerr=band,
            fmt="os"[number],
            markersize=3,
            linewidth=0.6,
            color=COLOURS[number],
            label=split,
        )
    ends = [min(milli(row["ttft_s"]) for row in rows), max(milli(row["ttft_s"]) for row in rows)]
    axis.plot(ends, ends, color=GREY, linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="measured TTFT, ms", ylabel="predicted TTFT, ms")
    axis.legend(frameon=False, fontsize=7)


def _gains(axis: Any, rows: Sequence[Row]) -> None:
    """Measured gains over the FLOP ratio: what masking, launches and scores take away."""
    runs = list(dict.fromkeys(row["execution"] for row in rows))
    for row in speedup_rows(rows):
        if row["flop_ratio"] is not None:
            colour = COLOURS[runs.index(row["execution"])]
            axis.plot(row["flop_ratio"], row["ttft_speedup"], "o", color=colour, markersize=3)
    for number, run in enumerate(runs):
        axis.plot([], [], "o", color=COLOURS[number], markersize=3, label=run)
    axis.axline((1, 1), slope=1, color=GREY, linewidth=0.8)
    axis.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(xlabel="FLOPs without over FLOPs with reduction", ylabel="measured gain in TTFT")
    axis.legend(frameon=False, fontsize=7)


def _shares(axis: Any, rows: Sequence[Row]) -> None:
    """Where the time goes: the largest eager prefill that was measured, schedule by schedule."""
    eager = [row for row in rows if row["execution"] == "eager" and row.get("llm.time_s")]
    if not eager:
        return
    biggest = max(eager, key=lambda row: row["ttft_s"])
    keys = ("model", "frames", "text_tokens")
    group = [row for row in eager if all(row[key] == biggest[key] for key in keys)]
    left = [0.0] * len(group)
    for colour, (label, names) in zip(COLOURS, _PHASES.items(), strict=False):
        width = [milli(sum(row.get(name) or 0.0 for name in names)) for row in group]
        axis.barh(range(len(group)), width, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, width, strict=True)]
    labels = [row["schedule"].replace("merge ", "").replace("prune ", "") for row in group]
    axis.set_yticks(range(len(group)), [label[:28] for label in labels], fontsize=6)
    axis.invert_yaxis()
    axis.set_xlabel(f"ms, {biggest['model']}, {biggest['frames']} frames")
    axis.legend(frameon=False, fontsize=7)
