"""aim-runtime report: a campaign's rows against the model, in tables and one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from aim_cost.command_line import FormatOption
from aim_cost.report import Format, console, print_rows, table
from aim_runtime.agreement import Row


def report(
    folder: Annotated[Path, typer.Argument(help="What measure --suite wrote.")],
    plot: Annotated[Path | None, typer.Option(help="Write a PNG.", dir_okay=False)] = None,
    form: FormatOption = Format.table,
) -> None:
    """Compare the rows of a campaign with the model: errors of each prediction, and speed-ups.

    Rows that a fit may see stand apart from those held out.
    """
    from aim_runtime.campaign_report import error_rows, joined_rows, speedup_rows

    rows = joined_rows(folder)
    if plot is not None:
        from aim_runtime.report_plot import report_plot

        report_plot(rows, plot)
        console(error=True).print(f"wrote {plot}")
    if form is not Format.table:
        print_rows(rows, form)
        return
    gains = speedup_rows(rows)
    console().print(Group(_errors(error_rows(rows)), "", _speedups(gains)))


def _errors(rows: Sequence[Row]) -> RenderableType:
    lines = [
        (
            row["predictor"],
            row["split"],
            str(row["rows"]),
            _percent(row["mape"]),
            _percent(row["bias"], "+"),
            _percent(row["p95"]),
            "-" if row["kendall_tau"] is None else f"{row['kendall_tau']:.2f}",
            _percent(row["in_band"]),
        )
        for row in rows
    ]
    columns = ("prediction", "rows", "n", "MAPE", "bias", "p95", "tau", "band")
    note = "%, of TTFT; of the LLM's time where the LLM alone is predicted. Negative: too fast. "
    note += "tau: order of the schedules, mean over those timed together. Band: 90 %."
    return table("Predicted against measured", columns, lines, note)


def _speedups(rows: Sequence[Row]) -> RenderableType:
    lines = [
        (
            row["model"].removeprefix("llava-onevision-qwen2-"),
            f"{row['frames']}+{row['text_tokens']}",
            _RUNS[row["execution"]],
            _short(row["schedule"]),
            _times(row["flop_ratio"]),
            _times(row["ttft_speedup"]),
            _times(row["llm_speedup"]),
            _percent(row["reduction_share"], digits=1),
            _percent(row["memory_error"], "+"),
        )
        for row in rows
    ]
    columns = ("model", "input", "run", "schedule", "FLOPs", "TTFT", "LLM", "cost", "mem")
    note = "Gains over the eager prefill without reduction, FLOPs predicted, times measured. cost: "
    note += "merging and scoring, % of TTFT. mem.: error of the predicted peak, %. Input: frames + "
    note += "text tokens. Run: E eager, G CUDA graph, M masked."
    return table("What a schedule gains", columns, lines, note)


_RUNS = {"eager": "E", "cuda-graph": "G", "masked": "M"}


def _short(label: str) -> str:
    """A schedule in the width of a column; the whole label is in the JSON."""
    forms = label.replace("merge ", "").replace("prune ", "").replace("linear:", "")
    return forms if len(forms) <= 21 else f"{forms[:18]}..."


def _percent(value: float | None, sign: str = "", digits: int = 0) -> str:
    return "-" if value is None else f"{100 * value:{sign}.{digits}f}"


def _times(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"
