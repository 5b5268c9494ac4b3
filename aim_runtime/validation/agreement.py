"""Agreement: how well predicted and measured times agree."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from aim_cost.render import Row
from aim_runtime.validation.comparison import Comparison

PHASES = ("ttft", "vision", "merge", "llm", "importance")
"""The phases of which an agreement has errors."""


@dataclass(frozen=True)
class Errors:
    """Relative errors of predicted times, negative where the prediction is too fast.

    Args: mape, mean of their sizes; bias, their mean; p95, 95th percentile of their sizes.
    """

    mape: float
    bias: float
    p95: float


@dataclass(frozen=True)
class PhaseErrors:
    """Relative errors of one phase: mape and bias as of Errors; r2, None where nothing varies."""

    mape: float
    bias: float
    r2: float | None


@dataclass(frozen=True)
class Agreement:
    """Whether a run passes, and how far the times are off.

    A run passes when every trace and every FLOP is equal and no row failed; times are reported.

    Args:
        errors: of TTFT; None where nothing was timed.
        worst: the row with the largest of them.
        kendall_tau: whether the model orders the schedules as the clock does, -1 to 1; None for
            fewer than two rows.
        in_band: the share of rows inside the predicted 90 % band; None without one.
        phases: errors of each of PHASES; None for one that never ran.
    """

    traces_equal: bool
    flops_equal: bool
    failed_rows: int
    errors: Errors | None
    worst: Comparison | None
    kendall_tau: float | None
    in_band: float | None
    phases: Mapping[str, PhaseErrors | None]

    @classmethod
    def of(cls, rows: Sequence[Comparison]) -> "Agreement":
        timed = [(row, error) for row in rows if (error := row.ttft_error) is not None]
        worst = max(timed, key=lambda one: abs(one[1]), default=None)
        chosen = [row for row, _ in timed]
        return cls(
            traces_equal=all(row.counts.traces_equal for row in rows),
            flops_equal=all(row.counts.flops_equal for row in rows),
            failed_rows=sum(bool(row.measured.error) for row in rows),
            errors=errors_of([error for _, error in timed]),
            worst=worst[0] if worst else None,
            kendall_tau=kendall_tau(_pairs(chosen, "ttft")),
            in_band=in_band([_band(row) for row in chosen]),
            phases={phase: _phase(chosen, phase) for phase in PHASES},
        )

    @property
    def passed(self) -> bool:
        return self.traces_equal and self.flops_equal and not self.failed_rows

    def to_row(self) -> Row:
        """Plain data, for JSON."""
        nothing = {"mape": None, "bias": None}
        return {
            "traces_equal": self.traces_equal,
            "flops_equal": self.flops_equal,
            "failed_rows": self.failed_rows,
            "passed": self.passed,
            **(asdict(self.errors) if self.errors else nothing | {"p95": None}),
            "worst_row": self.worst.label if self.worst else None,
            "kendall_tau": self.kendall_tau,
            "in_band": self.in_band,
            "phases": {
                phase: asdict(errors) if errors else nothing | {"r2": None}
                for phase, errors in self.phases.items()
            },
        }


def errors_of(errors: Sequence[float]) -> Errors | None:
    """The figures of relative errors; None without any."""
    if not errors:
        return None
    sizes = np.abs(errors)
    return Errors(
        mape=float(sizes.mean()),
        bias=float(np.mean(errors)),
        p95=float(np.quantile(sizes, 0.95)),
    )


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


def _pairs(rows: Sequence[Comparison], phase: str) -> list[tuple[float, float]]:
    """Predicted and measured seconds of the rows in which the phase ran."""
    return [(row.predicted_s(phase), clock_s) for row in rows if (clock_s := row.measured_s(phase))]


def _band(row: Comparison) -> tuple[float | None, float, float | None]:
    ttft, clock_s = row.counts.predicted.ttft, row.measured.ttft_s
    assert clock_s is not None
    return ttft.low_s, clock_s, ttft.high_s


def _phase(rows: Sequence[Comparison], phase: str) -> PhaseErrors | None:
    pairs = _pairs(rows, phase)
    if not pairs:
        return None
    predicted, measured = np.array(pairs).T
    error = predicted / measured - 1
    spread = float(((measured - measured.mean()) ** 2).sum())
    residual = float(((measured - predicted) ** 2).sum())
    return PhaseErrors(
        mape=float(np.abs(error).mean()),
        bias=float(error.mean()),
        r2=1 - residual / spread if spread > 0 else None,
    )
