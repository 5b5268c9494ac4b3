"""StepRecord: what a campaign's file says of a step that ran. KernelTables: what one left."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from aim_cost.render import Row
from aim_runtime.campaigns.step import StepKey
from aim_runtime.measurement.environment import Environment, GpuState
from aim_runtime.measurement.origin import STAND_IN


class Status(StrEnum):
    """How a step ended; one that was killed stays ``running``."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class StepRecord:
    """A step that ran.

    Args:
        begun_at: UTC, ISO 8601.
        device: as the driver names it; profile: that predictions were made with.
        predicted_seconds, seconds: of the whole step; seconds is None while it runs.
        error: its line, then the end of the traceback.
        before, after: the GPU's clock around the step.
    """

    step: StepKey
    status: Status
    begun_at: str
    device: str
    profile: str
    dtype: str
    attention_backend: str
    predicted_seconds: float
    seconds: float | None
    error: str | None
    before: GpuState
    after: GpuState | None
    environment: Environment

    @property
    def throttled(self) -> bool:
        """Whether the GPU held its clock down before or after the step."""
        return self.before.throttled or (self.after is not None and self.after.throttled)

    @property
    def error_line(self) -> str:
        """The error without its traceback; empty without one."""
        return self.error.splitlines()[0] if self.error else ""

    def to_row(self) -> Row:
        return {
            "step": self.step.to_row(),
            "status": self.status.value,
            "begun_at": self.begun_at,
            "device": self.device,
            "profile": self.profile,
            "dtype": self.dtype,
            "attention_backend": self.attention_backend,
            "predicted_seconds": self.predicted_seconds,
            "seconds": self.seconds,
            "error": self.error,
            "before": self.before.to_row(),
            "after": self.after.to_row() if self.after else None,
            "environment": self.environment.to_row(),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "StepRecord":
        """The inverse of ``to_row``. Raises: KeyError for another row.

        Files that were written before environments said ``rehearsal`` say it by the device.
        """
        environment = Environment.of(row["environment"])
        if row["device"].startswith(STAND_IN):
            environment = replace(environment, rehearsal=True)
        return cls(
            step=StepKey.of(row["step"]),
            status=Status(row["status"]),
            begun_at=row["begun_at"],
            device=row["device"],
            profile=row["profile"],
            dtype=row["dtype"],
            attention_backend=row["attention_backend"],
            predicted_seconds=row["predicted_seconds"],
            seconds=row["seconds"],
            error=row["error"],
            before=GpuState(**row["before"]),
            after=GpuState(**row["after"]) if row["after"] else None,
            environment=environment,
        )


@dataclass(frozen=True)
class KernelTables:
    """Kernel tables of one model and attention backend, and the step that measured them.

    Args: files, the text of each by its name.
    """

    step_number: int
    model: str
    attention_backend: str
    frames: int
    files: Mapping[str, str]

    def to_row(self) -> Row:
        return {**vars(self), "files": dict(self.files)}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "KernelTables":
        """The inverse of ``to_row``. Raises: KeyError for another row."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})
