"""The tables of a campaign's report: errors of predictions, gains, decoding, drift; and notes."""

from collections.abc import Sequence

from rich.console import Group, RenderableType

from aim_cost.render import table
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import milli
from aim_runtime.campaigns.errors import Drift, ErrorLine, Gain, drifts, error_lines, gains
from aim_runtime.campaigns.report import CampaignReport, Joined
from aim_runtime.measurement.decode import Decoding
from aim_runtime.measurement.row_key import RunKey
from aim_runtime.measurement.run_kind import RunKind

_WIDTH = 21  # of a schedule in a table
_RUNS = {RunKind.EAGER: "E", RunKind.CUDA_GRAPH: "G", RunKind.MASKED: "M"}


def report_tables(found: CampaignReport) -> RenderableType:
    """All tables, and below them what stands in none."""
    rows, again = found.rows, drifts(found.rows)
    shown = [_errors(error_lines(rows), rows), _gains(gains(rows), rows)]
    shown += [_decode(found.decode)] if found.decode else []
    shown += [_drift(again)] if again else []
    return Group(*shown, "\n".join(report_notes(found)))


def report_notes(found: CampaignReport) -> list[str]:
    """What stands in no table, in sentences."""
    rows = found.rows
    notes = []
    if found.is_rehearsal:
        notes.append("A rehearsal: no device ran, every time is the model's own with noise.")
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
    if count := sum(bool(row.measured.driver_allocations) for row in rows):
        notes.append(f"{count} rows hold runs that asked the driver for memory: too slow, maybe.")
    if count := sum(row.throttled for row in rows):
        notes.append(f"{count} rows belong to steps around which the GPU held its clock down.")
    notes += [f"Failed: {label}: {error}" for label, error in found.failed]
    notes += [f"No calibration from the kernel tables of {reason}" for reason in found.unfitted]
    return notes


def _errors(lines: Sequence[ErrorLine], rows: Sequence[Joined]) -> RenderableType:
    cells = [
        (
            line.way.value,
            line.attention_backend or "-",
            ("held out" if line.held_out else "fit") + ("" if line.beforehand else "*"),
            str(line.rows),
            _percent(line.errors.mape),
            _percent(line.errors.bias, "+"),
            _percent(line.errors.p95),
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


def _gains(lines: Sequence[Gain], rows: Sequence[Joined]) -> RenderableType:
    cells = [
        (
            *_place(line.row.key.run),
            _RUNS[line.row.key.run.execution],
            short_label(line.row.key.run.schedule),
            _times(line.flop_ratio),
            _times(line.ttft_speedup),
            _times(line.llm_speedup),
            _percent(line.reduction_share, digits=1),
            _percent(line.memory_error, "+"),
        )
        for line in lines
    ]
    versions = ", ".join(sorted({str(row.origin.transformers) for row in rows}))
    columns = ("model", "input", "run", "schedule", "FLOPs", "TTFT", "LLM", "cost", "mem")
    note = "Gains over the eager prefill without reduction, FLOPs predicted, times measured. cost: "
    note += (
        "merging and scoring, % of TTFT. mem: error of the predicted peak, %, with transformers "
    )
    note += f"{versions}. Input: frames + text tokens. Run: E eager, G CUDA graph, M masked."
    return table("What a schedule gains", columns, cells, note)


def _decode(rows: Sequence[Decoding]) -> RenderableType:
    cells = [
        (
            *_place(row.key.run),
            row.key.attention_backend or "-",
            short_label(row.key.run.schedule),
            _milli(row.tpot_s),
        )
        for row in rows
    ]
    note = "Milliseconds of an output token, median; mostly the host's, which starts each kernel."
    return table("Decoding", ("model", "input", "attention", "schedule", "ms"), cells, note)


def _drift(lines: Sequence[Drift]) -> RenderableType:
    cells = [
        (
            *_place(line.row.key.run),
            short_label(line.row.key.run.schedule),
            _milli(line.first.ttft_s),
            _quartiles(line.first),
            _milli(line.row.ttft_s),
            _percent(line.change, "+", digits=1),
        )
        for line in lines
    ]
    columns = ("model", "input", "schedule", "first", "quartiles", "again", "change")
    return table("The same work later", columns, cells, "TTFT in ms; change in %.")


def short_label(schedule: Schedule, width: int = _WIDTH) -> str:
    """A schedule in the width of a column, without the names of merging and of pruning."""
    merge, prune = schedule.merge, schedule.prune
    label = schedule.label()
    if schedule == Schedule(merge, prune) and (merge or prune):
        amounts = [merge.label()] if merge else []
        amounts += [prune.label().removeprefix("linear:")] if prune else []
        label = ", ".join(amounts)
    return label if len(label) <= width else f"{label[: width - 3]}..."


def _place(run: RunKey) -> tuple[str, str]:
    """The model, and the frames and text tokens of a prompt."""
    model = run.model.removeprefix("llava-onevision-qwen2-")
    return model, f"{run.workload.frames}+{run.workload.text_tokens}"


def _quartiles(row: Joined) -> str:
    return f"{_milli(row.measured.ttft_low_s)} to {_milli(row.measured.ttft_high_s)}"


def _milli(time_s: float | None) -> str:
    return "-" if time_s is None else f"{milli(time_s):.1f}"


def _percent(value: float | None, sign: str = "", digits: int = 0) -> str:
    return "-" if value is None else f"{100 * value:{sign}.{digits}f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
