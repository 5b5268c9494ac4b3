"""aim-runtime report: a campaign's rows against the model, in tables and one picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType

from aim_cost.cli.options import FormatOption
from aim_cost.render import Format, console, print_rows, table
from aim_cost.units import milli

if TYPE_CHECKING:
    from aim_runtime.campaigns.errors import Drift, ErrorLine, Gain
    from aim_runtime.campaigns.report import CampaignReport, Joined
    from aim_runtime.measurement.row_key import Row


def report(
    folder: Annotated[Path, typer.Argument(help="What aim-runtime campaign wrote.")],
    plot: Annotated[Path | None, typer.Option(help="Write a PNG.", dir_okay=False)] = None,
    tables: Annotated[
        Path | None,
        typer.Option(
            help="Write the kernel tables here, a folder a model, for aim-cost calibrate."
        ),
    ] = None,
    afterwards: Annotated[
        bool,
        typer.Option(
            "--afterwards", help="Also compare rows that were not predicted before they were timed."
        ),
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Compare the rows of a campaign with the model: errors of each prediction, and speed-ups.

    Rows that a fit may see stand apart from those held out. A row whose prediction is younger than
    the row itself is left out of the errors, and counted.
    """
    from aim_runtime.campaigns.errors import drifts, error_lines, gains
    from aim_runtime.campaigns.report import read_report, write_tables

    found = read_report(folder, afterwards=afterwards)
    if tables is not None:
        for path in write_tables(folder, tables):
            console(error=True).print(f"wrote {path}")
    if plot is not None:
        from aim_runtime.campaigns.plots import report_plot

        report_plot(found.rows, plot)
        console(error=True).print(f"wrote {plot}")
    rows = found.rows
    lines, steps, again = error_lines(rows), gains(rows), drifts(rows)
    if form is Format.csv:
        print_rows([row.to_row() for row in rows], form)
    elif form is Format.json:
        content = {
            "notes": _notes(found),
            "errors": [line.to_row() for line in lines],
            "gains": [line.to_row() for line in steps],
            "drift": [line.to_row() for line in again],
            "decode": found.decode,
            "rows": [row.to_row() for row in rows],
        }
        print(json.dumps(content, indent=2))
    else:
        shown = [_errors(lines, rows), _gains(steps, rows)]
        shown += [_decode(found.decode)] if found.decode else []
        shown += [_drift(again)] if again else []
        console().print(Group(*shown, "\n".join(_notes(found))))


def _notes(found: "CampaignReport") -> list[str]:
    """What stands in no table, in sentences."""
    rows = found.rows
    notes = []
    if found.refused:
        compared = any(row.beforehand is False and row.compared for row in rows)
        notes.append(
            f"{found.refused} rows had no prediction from before they were timed: "
            + (
                "their predictions were made AFTERWARDS (*)."
                if compared
                else "they are left out of the errors (--afterwards compares them)."
            )
        )
    if found.untimed:
        notes.append(f"{found.untimed} rows were never timed, and are left out.")
    if count := sum(bool(row.row.get("driver_allocations")) for row in rows):
        notes.append(f"{count} rows hold runs that asked the driver for memory: too slow, maybe.")
    if count := sum(row.throttled for row in rows):
        notes.append(f"{count} rows belong to steps around which the GPU held its clock down.")
    notes += [f"Failed: {label}: {error}" for label, error in found.failed]
    notes += [f"No calibration from the kernel tables of {reason}" for reason in found.unfitted]
    return notes


def _errors(lines: "Sequence[ErrorLine]", rows: "Sequence[Joined]") -> RenderableType:
    cells = [
        (
            line.way.value,
            line.attention_backend or "-",
            ("held out" if line.held_out else "fit") + ("" if line.beforehand else "*"),
            str(line.rows),
            _percent(line.mape),
            _percent(line.bias, "+"),
            _percent(line.p95),
            "-" if line.kendall_tau is None else f"{line.kendall_tau:.2f}",
            _percent(line.in_band),
        )
        for line in lines
    ]
    columns = ("prediction", "attention", "rows", "n", "MAPE", "bias", "p95", "tau", "band")
    note = "%, of TTFT; LLM-Viewer's of the LLM's time. Negative: too fast. tau: order of the "
    note += "schedules, mean over those timed together. band: share inside the 90 % band."
    if any(not line.beforehand for line in lines):
        note += " *: predicted after the rows."
    devices = ", ".join(dict.fromkeys(row.key.hardware for row in rows))
    return table(f"Predicted against measured, {devices}", columns, cells, note)


def _gains(lines: "Sequence[Gain]", rows: "Sequence[Joined]") -> RenderableType:
    cells = [
        (
            line.row.key.run.model.removeprefix("llava-onevision-qwen2-"),
            f"{line.row.key.run.frames}+{line.row.key.run.text_tokens}",
            _RUNS[line.row.key.run.execution],
            _short(line.row.key.run.schedule),
            _times(line.flop_ratio),
            _times(line.ttft_speedup),
            _times(line.llm_speedup),
            _percent(line.reduction_share, digits=1),
            _percent(line.memory_error, "+"),
        )
        for line in lines
    ]
    versions = ", ".join(sorted({str(row.row.get("transformers")) for row in rows}))
    columns = ("model", "input", "run", "schedule", "FLOPs", "TTFT", "LLM", "cost", "mem")
    note = "Gains over the eager prefill without reduction, FLOPs predicted, times measured. cost: "
    note += (
        "merging and scoring, % of TTFT. mem: error of the predicted peak, %, with transformers "
    )
    note += f"{versions}. Input: frames + text tokens. Run: E eager, G CUDA graph, M masked."
    return table("What a schedule gains", columns, cells, note)


def _decode(rows: "Sequence[Row]") -> RenderableType:
    cells = [
        (
            row["model"].removeprefix("llava-onevision-qwen2-"),
            f"{row['frames']}+{row['text_tokens']}",
            row["attention_backend"],
            _short(row["schedule"]),
            f"{milli(row['tpot_s']):.1f}",
        )
        for row in rows
    ]
    note = "Milliseconds of an output token, median; mostly the host's, which starts each kernel."
    return table("Decoding", ("model", "input", "attention", "schedule", "ms"), cells, note)


def _drift(lines: "Sequence[Drift]") -> RenderableType:
    cells = [
        (
            line.row.key.run.model.removeprefix("llava-onevision-qwen2-"),
            f"{line.row.key.run.frames}+{line.row.key.run.text_tokens}",
            _short(line.row.key.run.schedule),
            f"{milli(line.first.ttft_s):.1f}",
            "{:.1f} to {:.1f}".format(
                *(milli(line.first.row[name]) for name in ("ttft_low_s", "ttft_high_s"))
            ),
            f"{milli(line.row.ttft_s):.1f}",
            _percent(line.change, "+", digits=1),
        )
        for line in lines
    ]
    columns = ("model", "input", "schedule", "first", "quartiles", "again", "change")
    return table("The same work later", columns, cells, "TTFT in ms; change in %.")


_RUNS = {"eager": "E", "cuda-graph": "G", "masked": "M"}


def _short(label: str) -> str:
    """A schedule in the width of a column; the whole label is in the JSON."""
    forms = label.replace("merge ", "").replace("prune ", "").replace("linear:", "")
    return forms if len(forms) <= 21 else f"{forms[:18]}..."


def _percent(value: float | None, sign: str = "", digits: int = 0) -> str:
    return "-" if value is None else f"{100 * value:{sign}.{digits}f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
