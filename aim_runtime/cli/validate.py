"""What ``validate`` shows people: a table of 80 columns, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from aim_cost.files import write_atomically
from aim_cost.render import table
from aim_cost.units import milli, tera
from aim_runtime.validation.agreement import Row
from aim_runtime.validation.validate import Validation

# Okabe and Ito's palette, told apart by colour-blind readers and in print
_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
_PHASES = (
    ("vision tower", ("vision.tower",)),
    ("projector, pooling", ("vision.projector", "vision.pooling")),
    ("merging", ("merge",)),
    ("LLM layers", ("llm.layers",)),
    ("LLM head", ("llm.head",)),
    ("importance", ("importance",)),
)


def validation_table(result: Validation) -> RenderableType:
    """Schedules with their FLOPs, TTFT predicted and measured, and the verdict below."""
    lines, rows = [], result.rows
    baseline = rows[0].get("ttft_s")
    for row in rows:
        equal = row["flops_equal"] and row["traces_equal"]
        clock, error = row.get("ttft_s"), row["ttft_error"]
        lines.append(
            (
                row["schedule"],
                f"{tera(row['counted.total.flops']):.3f}",
                "yes" if equal else "NO",
                f"{milli(row['predicted.ttft_s']):.0f}",
                "failed" if clock is None else f"{milli(clock):.0f}",
                "-" if error is None else f"{100 * error:+.0f} %",
                "-" if not (clock and baseline) else f"{baseline / clock:.2f}x",
            )
        )
    columns = ("schedule", "TFLOPs", "=", "pred.", "meas.", "error", "gain")
    note = "TTFT in ms, predicted and measured; gain: over the first row. =: traces and FLOPs "
    note += "predicted equal those that ran. " + result.ceilings
    if result.device_speed is not None:
        share = 100 * result.device_speed
        note += f" The device ran GEMMs at {share:.0f} % of its rate at calibration."
    return Group(table(result.title, columns, lines, note), "", *verdict(rows, result.summary))


def verdict(rows: Sequence[Row], totals: Row) -> list[str]:
    """The result in sentences: equality, error, order, schedules that do not pay, differences."""
    lines = [
        f"Token traces {_equal(totals['traces_equal'])}; FLOPs {_equal(totals['flops_equal'])} "
        "(predicted and counted, integer for integer)."
    ]
    if totals["mape"] is not None:
        lines.append(
            f"TTFT, {_SOURCES[rows[0]['predicted.source']]}: mean error "
            f"{100 * totals['mape']:.0f} %, bias {100 * totals['bias']:+.0f} %, p95 "
            f"{100 * totals['p95']:.0f} %, worst {totals['worst_row']}."
        )
        phases = [
            f"{name} {100 * phase['mape']:.0f} %"
            + (f" (R2 {phase['r2']:.2f})" if phase["r2"] is not None else "")
            for name, phase in totals["phases"].items()
            if phase["mape"] is not None
        ]
        lines.append(f"Mean error by phase: {', '.join(phases)}.")
    if totals["kendall_tau"] is not None:
        lines.append(f"Order of the schedules: Kendall's tau {totals['kendall_tau']:.2f}.")
    if totals["in_band"] is not None:
        lines.append(f"Inside the predicted 90 % band: {100 * totals['in_band']:.0f} % of rows.")
    first = rows[0].get("ttft_s")
    lines += [
        f"Does not pay here: {row['schedule']} ({milli(row['ttft_s']):.0f} ms against "
        f"{milli(first):.0f} ms of {rows[0]['schedule']})."
        for row in rows[1:]
        if first and row.get("ttft_s") and row["ttft_s"] >= first
    ]
    lines += [f"Differs: {row['schedule']}: {text}" for row in rows for text in row["differences"]]
    lines += [f"Failed: {row['schedule']}: {row['error']}" for row in rows if row.get("error")]
    return lines


_SOURCES = {
    "datasheet": "predicted by a roofline on datasheet peaks",
    "measured": "predicted by a roofline on measured ceilings",
    "calibrated": "predicted by a calibration of this device",
    "inherited": "predicted by the calibration of another device",
}


def _equal(value: bool) -> str:
    return "equal" if value else "DIFFER"


def validation_plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write a PNG: TTFT predicted over measured, and where the time goes, both ways."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.get("ttft_s")]
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    predicted = [milli(row["predicted.ttft_s"]) for row in rows]
    measured = [milli(row["ttft_s"]) for row in rows]
    low = [milli(row["ttft_s"] - row["ttft_low_s"]) for row in rows]
    high = [milli(row["ttft_high_s"] - row["ttft_s"]) for row in rows]
    limit = 1.08 * max([*predicted, *measured, 1e-9])
    left.plot([0, limit], [0, limit], color="0.5", linewidth=1, label="exact")
    band = None
    if all(row["predicted.ttft_high_s"] is not None for row in rows):
        band = [
            [milli(row["predicted.ttft_s"] - row["predicted.ttft_low_s"]) for row in rows],
            [milli(row["predicted.ttft_high_s"] - row["predicted.ttft_s"]) for row in rows],
        ]
    left.errorbar(
        *(measured, predicted),
        **{"xerr": [low, high], "yerr": band, "fmt": "o", "color": _COLOURS[0]},
        label="schedules" + (", 90 % band and quartiles" if band else ", quartiles"),
    )
    left.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    left.set(xlabel="measured TTFT (ms)", ylabel="predicted TTFT (ms)")
    left.legend(frameon=False, loc="lower right")
    positions = range(len(rows))
    for sign, prefix, alpha in ((-1, "", 1.0), (1, "predicted.", 0.45)):
        start = [0.0] * len(rows)
        for (label, phases), colour in zip(_PHASES, _COLOURS, strict=True):
            width = [
                milli(sum(row.get(f"{prefix}{phase}.time_s") or 0.0 for phase in phases))
                for row in rows
            ]
            right.barh(
                [p + sign * 0.2 for p in positions],
                width,
                left=start,
                height=0.36,
                color=colour,
                alpha=alpha,
                label=label if not prefix else None,
            )
            start = [a + b for a, b in zip(start, width, strict=True)]
    right.set_yticks(list(positions), [row["schedule"] for row in rows])
    right.invert_yaxis()
    right.set_xlabel("ms; upper bar measured, lower and paler bar predicted")
    right.margins(x=0.03)
    right.legend(
        frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3
    )
    figure.suptitle(title, fontsize="medium")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    import io

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomically(path, content.getvalue())
