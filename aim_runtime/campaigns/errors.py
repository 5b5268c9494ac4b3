"""Tables over a campaign's rows: errors of predictions, gains of schedules, drift."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

from aim_cost.render import Row
from aim_cost.schedules.schedule import Schedule
from aim_runtime.campaigns.prediction import Way
from aim_runtime.campaigns.report import Joined
from aim_runtime.measurement.run_kind import RunKind
from aim_runtime.validation.agreement import Errors, errors_of, in_band, kendall_tau


@dataclass(frozen=True)
class ErrorLine:
    """Errors of one way to predict, over rows of one attention backend and one split.

    Args:
        beforehand: whether the predictions are older than the rows.
        kendall_tau: the mean over the groups that were timed together.
        in_band: share of the rows in the 90 % band; None where there is none.
    """

    way: Way
    attention_backend: str | None
    held_out: bool
    beforehand: bool
    rows: int
    errors: Errors
    kendall_tau: float | None
    in_band: float | None

    def to_row(self) -> Row:
        return {
            "way": self.way.value,
            "attention_backend": self.attention_backend,
            "held_out": self.held_out,
            "beforehand": self.beforehand,
            "rows": self.rows,
            **asdict(self.errors),
            "kendall_tau": self.kendall_tau,
            "in_band": self.in_band,
        }


@dataclass(frozen=True)
class Gain:
    """A row over the eager prefill without reduction of the same workload and backend.

    Args:
        flop_ratio: predicted FLOPs without over with reduction.
        reduction_share: merging and scoring over the whole TTFT.
        memory_error: of the predicted peak, relative.
    """

    row: Joined
    ttft_speedup: float
    llm_speedup: float | None
    flop_ratio: float | None
    reduction_share: float | None
    memory_error: float | None

    def to_row(self) -> Row:
        return {
            **self.row.key.to_row(),
            "ttft_speedup": self.ttft_speedup,
            "llm_speedup": self.llm_speedup,
            "flop_ratio": self.flop_ratio,
            "reduction_share": self.reduction_share,
            "memory_error": self.memory_error,
        }


@dataclass(frozen=True)
class Drift:
    """A workload measured again later: its TTFT, and median and quartiles of the first time."""

    row: Joined
    first: Joined

    @property
    def change(self) -> float:
        """Relative; positive where the device has become slower."""
        return self.row.ttft_s / self.first.ttft_s - 1

    def to_row(self) -> Row:
        return {
            **self.row.key.to_row(),
            "ttft_s": self.first.ttft_s,
            "ttft_low_s": self.first.measured.ttft_low_s,
            "ttft_high_s": self.first.measured.ttft_high_s,
            "again_ttft_s": self.row.ttft_s,
            "change": self.change,
        }


def error_lines(rows: Sequence[Joined]) -> list[ErrorLine]:
    """The errors of each way, backend and split, in the order of Way."""
    backends = dict.fromkeys(row.key.attention_backend for row in rows)
    lines = []
    for way, backend, held_out, beforehand in product(Way, backends, (False, True), (True, False)):
        chosen = [
            row
            for row in rows
            if way in row.compared
            and (row.key.attention_backend, row.held_out, row.beforehand)
            == (backend, held_out, beforehand)
        ]
        found = [row.compared[way] for row in chosen]
        errors = errors_of([one.error for one in found])
        if errors is None:
            continue
        bands = [(one.span.low_s, one.measured_s, one.span.high_s) for one in found]
        lines.append(
            ErrorLine(
                way=way,
                attention_backend=backend,
                held_out=held_out,
                beforehand=beforehand,
                rows=len(found),
                errors=errors,
                kendall_tau=_mean_tau(chosen, way),
                in_band=in_band(bands),
            )
        )
    return lines


def _mean_tau(rows: Sequence[Joined], way: Way) -> float | None:
    groups: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        found = row.compared[way]
        pair = found.span.time_s, found.measured_s
        groups.setdefault(row.origin.step_number, []).append(pair)
    taus = [tau for pairs in groups.values() if (tau := kendall_tau(pairs)) is not None]
    return sum(taus) / len(taus) if taus else None


def gains(rows: Sequence[Joined]) -> list[Gain]:
    """The gain of each row that was measured the first time and has a baseline."""
    first = [row for row in rows if row.key.visit == 1]
    base = {
        _workload(row): row
        for row in first
        if row.key.run.schedule == Schedule() and row.key.run.execution is RunKind.EAGER
    }
    return [
        _gain(row, plain)
        for row in first
        if (plain := base.get(_workload(row))) is not None and row is not plain
    ]


def drifts(rows: Sequence[Joined]) -> list[Drift]:
    """The drift of each row that was measured again."""
    first = {(_workload(row), row.key.run): row for row in rows if row.key.visit == 1}
    return [
        Drift(row, earlier)
        for row in rows
        if row.key.visit > 1 and (earlier := first.get((_workload(row), row.key.run))) is not None
    ]


def _workload(row: Joined) -> tuple[object, ...]:
    run = row.key.run
    return run.model, run.workload, run.dtype, row.key.attention_backend


def _gain(row: Joined, plain: Joined) -> Gain:
    measured = row.measured
    llm_s, plain_llm_s = measured.phase_s["llm"], plain.measured.phase_s["llm"]
    llm_speedup = share = memory_error = flop_ratio = None
    if llm_s and plain_llm_s:
        llm_speedup = plain_llm_s / llm_s
        share = sum(measured.phase_s[name] or 0.0 for name in ("merge", "importance")) / row.ttft_s
    if row.flops and plain.flops:
        flop_ratio = plain.flops / row.flops
    if row.peak_memory_bytes and measured.peak_memory_bytes:
        memory_error = row.peak_memory_bytes / measured.peak_memory_bytes - 1
    return Gain(
        row=row,
        ttft_speedup=plain.ttft_s / row.ttft_s,
        llm_speedup=llm_speedup,
        flop_ratio=flop_ratio,
        reduction_share=share,
        memory_error=memory_error,
    )
