"""What a campaign does: steps of prefills, of decoding and of kernels."""

from dataclasses import dataclass
from typing import Any

from aim_cost.models.model import ModelSpec, load_model_spec
from aim_cost.models.workload import Workload
from aim_cost.schedules.schedule import Schedule

Row = dict[str, Any]


@dataclass(frozen=True)
class _ScheduleStep:
    """Schedules of one model and workload, run in ``rounds`` rounds."""

    model: str
    frames: int
    text_tokens: int
    schedules: tuple[Schedule, ...]
    rounds: int

    @property
    def spec(self) -> ModelSpec:
        return load_model_spec(self.model)

    @property
    def workload(self) -> Workload:
        return Workload(text_tokens=self.text_tokens, frames=self.frames)

    @property
    def row_count(self) -> int:
        return len(self.schedules)

    @property
    def _place(self) -> str:
        return f"{self.spec.name}, {self.frames} frames + {self.text_tokens} text tokens"

    def _row(self, **more: object) -> Row:
        return {
            **{"model": self.spec.name, "frames": self.frames, "text_tokens": self.text_tokens},
            **more,
            "schedules": [schedule.label() for schedule in self.schedules],
        }


@dataclass(frozen=True)
class PrefillStep(_ScheduleStep):
    """Schedules of one model and workload, timed interleaved: one warm-up and ``rounds`` rounds.

    Args:
        model: a preset, or the path of a config.json.
        execution: as in ``measure``.
        visit: 1, or how often this was measured before, plus one.
    """

    execution: str = "eager"
    visit: int = 1

    @property
    def label(self) -> str:
        again = ", again" if self.visit > 1 else ""
        return f"{self._place}, {self.execution}{again}"

    def to_row(self) -> Row:
        return self._row(execution=self.execution, rounds=self.rounds, visit=self.visit)


@dataclass(frozen=True)
class DecodeStep(_ScheduleStep):
    """Greedy decoding of ``new_tokens`` after the prefill of each schedule."""

    new_tokens: int = 32

    @property
    def label(self) -> str:
        return f"{self._place}, decode"

    def to_row(self) -> Row:
        return self._row(execution="decode", rounds=self.rounds, new_tokens=self.new_tokens)


@dataclass(frozen=True)
class KernelStep:
    """Tables of the kernels of a model's prefills, up to the prompt of ``frames`` frames.

    Args: seconds, how long the clock runs, plans and captures not included.
    """

    model: str
    frames: int
    seconds: float

    @property
    def spec(self) -> ModelSpec:
        return load_model_spec(self.model)

    @property
    def workload(self) -> Workload:
        return Workload(text_tokens=100, frames=self.frames)

    @property
    def row_count(self) -> int:
        return 0

    @property
    def label(self) -> str:
        return f"{self.spec.name}, kernels up to {self.frames} frames"

    def to_row(self) -> Row:
        return {
            **{"model": self.spec.name, "frames": self.frames, "text_tokens": None},
            **{"execution": "kernels", "schedules": [], "seconds_of_rounds": self.seconds},
        }


Step = PrefillStep | DecodeStep | KernelStep
