"""What a campaign does: steps of prefills, of decoding and of kernels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aim_cost.models.model import ModelSpec, load_model_spec
from aim_cost.models.workload import Workload
from aim_cost.render import Row
from aim_cost.schedules.schedule import Schedule
from aim_runtime.measurement.run_kind import RunKind

_KERNELS = "kernels"


@dataclass(frozen=True)
class StepKey:
    """A step as files name it: what it does, whatever path its model was read from.

    Args:
        model: the name of its spec.
        execution: None for the kernels, which no schedule runs.
        rounds, visit, new_tokens, seconds: of the steps that have them.
    """

    model: str
    frames: int
    text_tokens: int | None
    execution: RunKind | None
    schedules: tuple[Schedule, ...] = ()
    rounds: int | None = None
    visit: int | None = None
    new_tokens: int | None = None
    seconds: float | None = None

    @property
    def place(self) -> str:
        """Model, frames and execution, in words."""
        return f"{self.model}, {self.frames} frames, {self.execution or _KERNELS}"

    def to_row(self) -> Row:
        counts = {"rounds": self.rounds, "visit": self.visit, "new_tokens": self.new_tokens}
        row = {
            "model": self.model,
            "frames": self.frames,
            "text_tokens": self.text_tokens,
            "execution": self.execution.value if self.execution else _KERNELS,
            **{name: value for name, value in counts.items() if value is not None},
            "schedules": [schedule.label() for schedule in self.schedules],
        }
        return row if self.seconds is None else row | {"seconds_of_rounds": self.seconds}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "StepKey":
        """The inverse of ``to_row``. Raises: KeyError for another row."""
        execution = row["execution"]
        return cls(
            model=row["model"],
            frames=row["frames"],
            text_tokens=row["text_tokens"],
            execution=None if execution == _KERNELS else RunKind(execution),
            schedules=tuple(Schedule.read(label) for label in row["schedules"]),
            rounds=row.get("rounds"),
            visit=row.get("visit"),
            new_tokens=row.get("new_tokens"),
            seconds=row.get("seconds_of_rounds"),
        )


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

    def _key(self, execution: RunKind) -> StepKey:
        return StepKey(
            model=self.spec.name,
            frames=self.frames,
            text_tokens=self.text_tokens,
            execution=execution,
            schedules=self.schedules,
            rounds=self.rounds,
        )


@dataclass(frozen=True)
class PrefillStep(_ScheduleStep):
    """Schedules of one model and workload, timed interleaved: one warm-up and ``rounds`` rounds.

    Args:
        model: a preset, or the path of a config.json.
        execution: as in ``measure``.
        visit: 1, or how often this was measured before, plus one.
    """

    execution: RunKind = RunKind.EAGER
    visit: int = 1

    @property
    def label(self) -> str:
        again = ", again" if self.visit > 1 else ""
        return f"{self._place}, {self.execution}{again}"

    @property
    def key(self) -> StepKey:
        return replace(self._key(self.execution), visit=self.visit)


@dataclass(frozen=True)
class DecodeStep(_ScheduleStep):
    """Greedy decoding of ``new_tokens`` after the prefill of each schedule."""

    new_tokens: int = 32

    @property
    def label(self) -> str:
        return f"{self._place}, {RunKind.DECODE}"

    @property
    def key(self) -> StepKey:
        return replace(self._key(RunKind.DECODE), new_tokens=self.new_tokens)


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

    @property
    def key(self) -> StepKey:
        return StepKey(self.spec.name, self.frames, None, None, seconds=self.seconds)


Step = PrefillStep | DecodeStep | KernelStep
