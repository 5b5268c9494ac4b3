"""Comparison: one schedule predicted, counted and timed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from aim_cost.render import Row
from aim_cost.schedules.schedule import Schedule
from aim_runtime.measurement.measurement import Measurement
from aim_runtime.validation.counts import Counts


@dataclass(frozen=True)
class Comparison:
    """One schedule on one case.

    Args:
        counts: FLOPs and tokens, predicted and as they ran, with the predicted times.
        measured: what the clock said.
        method: the name that the schedule was asked for by, if any.
    """

    counts: Counts
    measured: Measurement
    method: str | None = None

    @property
    def label(self) -> str:
        return self.method or self.counts.run.schedule.label()

    @property
    def equal(self) -> bool:
        """Whether the tokens and the FLOPs of each phase that ran are those predicted."""
        return self.counts.flops_equal and self.counts.traces_equal

    @property
    def passed(self) -> bool:
        return self.equal and not self.measured.error

    @property
    def ttft_error(self) -> float | None:
        """Predicted over measured TTFT, minus 1; None where nothing was timed."""
        clock_s = self.measured.ttft_s
        return None if clock_s is None else self.counts.predicted.ttft_s / clock_s - 1

    def predicted_s(self, phase: str) -> float:
        """Seconds of a phase or a group of phases; of the whole prefill for ``ttft``."""
        predicted = self.counts.predicted
        return predicted.ttft_s if phase == "ttft" else predicted.time(phase).time_s

    def measured_s(self, phase: str) -> float | None:
        """Likewise, by the clock; None where it did not tell the phase apart."""
        return self.measured.ttft_s if phase == "ttft" else self.measured.phase_s[phase]

    def to_row(self, first: "Comparison") -> Row:
        """One flat row; ``speedup`` and ``predicted.speedup`` are over ``first``."""
        clock_s, first_s = self.measured.ttft_s, first.measured.ttft_s
        return {
            **self.measured.to_row(),
            **self.counts.to_row(),
            **({} if self.method is None else {"method": self.method}),
            "ttft_error": self.ttft_error,
            "speedup": first_s / clock_s if first_s and clock_s else None,
            "predicted.speedup": first.predicted_s("ttft") / self.predicted_s("ttft"),
        }


def join(
    counts: Sequence[Counts],
    measured: Sequence[Measurement],
    names: Mapping[Schedule, str] = MappingProxyType({}),
) -> list[Comparison]:
    """Each schedule's counts with its measurement: those of the same case and schedule.

    Args: names, of the methods that the schedules stand for.
    Raises: KeyError where a schedule was not measured.
    """
    by_run = {row.key.run: row for row in measured}
    return [Comparison(one, by_run[one.run], names.get(one.run.schedule)) for one in counts]
