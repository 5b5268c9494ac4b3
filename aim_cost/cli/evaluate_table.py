"""The tables that ``aim-cost evaluate`` and ``aim-cost calibrate`` print for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from aim_cost.render import table
from aim_cost.timing import Calibration
from aim_cost.timing.fit.prefills import PrefillRow, mean_error
from aim_cost.units import milli

# keys of an evaluation, and the headings of their columns
_ERRORS = {"mape": "mean", "median": "median", "p90": "p90", "coverage": "band"}


def calibration_table(fitted: Calibration, note: str) -> Table:
    """Held-out errors of one calibration, a row for each kind of kernel, percent."""
    lines = [
        (name.replace("_", " "), str(kernel.rows), *_percents(kernel.held_out))
        for name, kernel in fitted.kernels.items()
    ]
    columns = ("kernels", "rows", *_ERRORS.values())
    return table(f"Calibration of {fitted.hardware}", columns, lines, note)


def held_out_table(result: Mapping[str, Any]) -> Table:
    """Held-out errors of every GPU and kind of kernel, with those of two simpler models."""
    simpler = ("roofline", "three_constants")
    lines = [
        (
            f"{gpu.partition('-')[0].upper()} {op.replace('_attention', ' att.')}",
            str(errors["n"]),
            *_percents(errors),
            *(f"{100 * result[model][gpu][op]['mape']:.0f}" for model in simpler),
        )
        for gpu, ops in result["held_out"].items()
        for op, errors in ops.items()
    ]
    note = (
        "Percent; band: share of rows inside the 90 % band. Beside it the mean errors of the "
        "roofline on datasheet peaks and of a model of three constants."
    )
    columns = ("GPU, kernels", "rows", *_ERRORS.values(), "roofline", "3-const.")
    return table("Held-out errors, five folds by shape", columns, lines, note)


def prefill_table(rows: Sequence[PrefillRow]) -> Table:
    """Prefills that others measured, and the calibration's predictions of them."""
    lines = [
        (
            f"{row.model.removeprefix('llama-2-').upper()}, "
            f"{row.runtime.replace('flash attention', 'FA')}",
            f"{row.batch}x{row.tokens // row.batch}",
            f"{milli(row.measured_s):.1f}",
            f"{milli(row.predicted_s):.1f}",
            f"{100 * row.error:+.0f} %",
        )
        for row in rows
    ]
    note = (
        f"Milliseconds. Mean error {100 * mean_error(rows):.1f} %. No number was fitted to these "
        "rows, but how unfused kernels are counted was chosen with them in view "
        "(docs/decisions/0006)."
    )
    columns = ("prefill on an A100", "tokens", "measured", "pred.", "error")
    return table("Whole prefills measured by others", columns, lines, note)


def _percents(errors: Mapping[str, float]) -> list[str]:
    return [f"{100 * errors[key]:.1f}" for key in _ERRORS]
