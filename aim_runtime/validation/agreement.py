"""How well predicted and measured times agree, over the rows of a validation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

TIMES = {
    "ttft": "ttft_s",
    "vision": "vision.time_s",
    "merge": "merge.time_s",
    "llm": "llm.time_s",
    "importance": "importance.time_s",
}


def summary(rows: Sequence[Row]) -> Row:
    """Whether the run passes, and how far the times are off.

    Of TTFT: ``mape``, mean absolute relative error; ``bias``, its signed mean, negative where the
    prediction is too fast; ``p95`` of its size; ``worst_row``, the schedule with the largest;
    ``kendall_tau``, does the model order the schedules as the clock does; ``in_band``, the share of
    rows inside the predicted band (None without one). ``phases``: mape, bias and r2 of each.
    A run passes when every trace and every FLOP is equal and no row failed; times are reported.
    """
    timed = [row for row in rows if row["ttft_error"] is not None]
    worst = max(timed, key=lambda row: abs(row["ttft_error"]), default=None)
    return {
        "traces_equal": all(row["traces_equal"] for row in rows),
        "flops_equal": all(row["flops_equal"] for row in rows),
        "failed_rows": sum(bool(row.get("error")) for row in rows),
        "passed": all(
            row["traces_equal"] and row["flops_equal"] and not row.get("error") for row in rows
        ),
        **errors_of([row["ttft_error"] for row in timed]),
        "worst_row": worst["schedule"] if worst else None,
        "kendall_tau": kendall_tau([(row["predicted.ttft_s"], row["ttft_s"]) for row in timed]),
        "in_band": in_band(
            [
                (row.get("predicted.ttft_low_s"), row["ttft_s"], row.get("predicted.ttft_high_s"))
                for row in timed
            ]
        ),
        "phases": {name: _phase(timed, key) for name, key in TIMES.items()},
    }


def errors_of(errors: Sequence[float]) -> Row:
    """``mape``, ``bias`` and ``p95`` of relative errors; None without any."""
    if not errors:
        return {"mape": None, "bias": None, "p95": None}
    sizes = np.abs(errors)
    return {
        "mape": float(sizes.mean()),
        "bias": float(np.mean(errors)),
        "p95": float(np.quantile(sizes, 0.95)),
    }


def _phase(rows: Sequence[Row], key: str) -> Row:
    """Errors of one phase, over the rows in which it ran; r2 is None where nothing varies."""
    pairs = [(row[f"predicted.{key}"], row[key]) for row in rows if row.get(key)]
    if not pairs:
        return {"mape": None, "bias": None, "r2": None}
    predicted, measured = np.array(pairs).T
    error = predicted / measured - 1
    spread = float(((measured - measured.mean()) ** 2).sum())
    residual = float(((measured - predicted) ** 2).sum())
    return {
        "mape": float(np.abs(error).mean()),
        "bias": float(error.mean()),
        "r2": 1 - residual / spread if spread > 0 else None,
    }


def in_band(times: Sequence[tuple[float | None, float, float | None]]) -> float | None:
    """The share of (low, measured, high) that lie within; None where none has a band."""
    inside = [
        low <= clock <= high for low, clock, high in times if low is not None and high is not None
    ]
    return sum(inside) / len(inside) if inside else None


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Concordant minus discordant pairs over all pairs (tau-a); None for fewer than two rows."""
    signs = [(a[0] - b[0]) * (a[1] - b[1]) for i, a in enumerate(pairs) for b in pairs[:i]]
    if not signs:
        return None
    return sum((s > 0) - (s < 0) for s in signs) / len(signs)
