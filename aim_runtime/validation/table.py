"""The table of a validation: schedules with FLOPs and TTFT, and the verdict below."""

from collections.abc import Sequence

from rich.console import Group, RenderableType

from aim_cost.render import table
from aim_cost.units import milli, tera
from aim_runtime.validation.agreement import Agreement
from aim_runtime.validation.comparison import Comparison
from aim_runtime.validation.validate import Validation


def validation_table(result: Validation) -> RenderableType:
    """Schedules with their FLOPs, TTFT predicted and measured, and the verdict below."""
    first_s = result.rows[0].measured.ttft_s
    lines = [_line(row, first_s) for row in result.rows]
    columns = (
        "method" if result.rows[0].method else "schedule",
        "TFLOPs",
        "=",
        "pred.",
        "meas.",
        "error",
        "gain",
    )
    note = "TTFT in ms, predicted and measured; gain: over the first row. =: traces and FLOPs "
    note += "predicted equal those that ran. " + result.ceilings
    if result.device_speed is not None:
        share = 100 * result.device_speed
        note += f" The device ran GEMMs at {share:.0f} % of its rate at calibration."
    figures = table(result.title, columns, lines, note)
    left_out = [f"No row of {name}: {reason}" for name, reason in result.left_out.items()]
    return Group(figures, "", *verdict(result.rows, result.agreement), *left_out)


def _line(row: Comparison, first_s: float | None) -> tuple[str, ...]:
    clock_s, error = row.measured.ttft_s, row.ttft_error
    return (
        row.label,
        f"{tera(row.counts.counted_flops):.3f}",
        "yes" if row.equal else "NO",
        f"{milli(row.predicted_s('ttft')):.0f}",
        "failed" if clock_s is None else f"{milli(clock_s):.0f}",
        "-" if error is None else f"{100 * error:+.0f} %",
        "-" if not (clock_s and first_s) else f"{first_s / clock_s:.2f}x",
    )


def verdict(rows: Sequence[Comparison], found: Agreement) -> list[str]:
    """The result in sentences: equality, error, order, schedules that do not pay, differences."""
    lines = [
        f"Token traces {_equal(found.traces_equal)}; FLOPs {_equal(found.flops_equal)} "
        "(predicted and counted, integer for integer)."
    ]
    if found.errors is not None and found.worst is not None:
        source = rows[0].counts.predicted.ttft.source
        lines.append(
            f"TTFT, predicted by {source.phrase}: mean error {100 * found.errors.mape:.0f} %, "
            f"bias {100 * found.errors.bias:+.0f} %, p95 {100 * found.errors.p95:.0f} %, "
            f"worst {found.worst.label}."
        )
        phases = [
            f"{name} {100 * phase.mape:.0f} %"
            + (f" (R2 {phase.r2:.2f})" if phase.r2 is not None else "")
            for name, phase in found.phases.items()
            if phase is not None
        ]
        lines.append(f"Mean error by phase: {', '.join(phases)}.")
    if found.kendall_tau is not None:
        lines.append(f"Order of the schedules: Kendall's tau {found.kendall_tau:.2f}.")
    if found.in_band is not None:
        lines.append(f"Inside the predicted 90 % band: {100 * found.in_band:.0f} % of rows.")
    lines += _not_paying(rows)
    lines += [f"Differs: {row.label}: {text}" for row in rows for text in row.counts.differences]
    lines += [f"Failed: {row.label}: {row.measured.error}" for row in rows if row.measured.error]
    return lines


def _not_paying(rows: Sequence[Comparison]) -> list[str]:
    """A sentence for each schedule that is no faster than the first."""
    first_s = rows[0].measured.ttft_s
    return [
        f"Does not pay here: {row.label} ({milli(clock_s):.0f} ms against "
        f"{milli(first_s):.0f} ms of {rows[0].label})."
        for row in rows[1:]
        if first_s and (clock_s := row.measured.ttft_s) and clock_s >= first_s
    ]


def _equal(value: bool) -> str:
    return "equal" if value else "DIFFER"
