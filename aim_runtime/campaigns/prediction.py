"""Prediction: what the model says of a run before the run is timed."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aim_cost.case import Case
from aim_cost.conventions.convention import LLM_VIEWER
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution
from aim_cost.render import Row
from aim_cost.timing.calibration import Calibration
from aim_cost.timing.prefill_time import nearest_calibration
from aim_runtime.campaigns.figures import Figures, Span
from aim_runtime.measurement.row_key import RunKey
from aim_runtime.measurement.run_kind import RunKind


class Way(StrEnum):
    """A way to predict a time.

    ``llm_viewer`` is the roofline of LLM-Viewer, which knows the LLM alone; ``datasheet`` the
    roofline of the whole prefill; ``public`` uses the shipped calibration, made of public kernel
    tables; ``own`` one that is fitted to the kernel tables of the campaign itself.
    """

    llm_viewer = "LLM-Viewer"
    datasheet = "datasheet"
    public = "public tables"
    own = "own kernels"

    @property
    def of_llm(self) -> bool:
        """Whether it predicts the LLM's time rather than TTFT."""
        return self is Way.llm_viewer


@dataclass(frozen=True)
class Rooflines:
    """Lower bounds of a prefill, seconds: the LLM's time by LLM-Viewer, TTFT by the datasheet."""

    llm_viewer_llm_s: float
    datasheet_ttft_s: float

    def to_row(self) -> Row:
        return {
            "llm_viewer.llm.time_s": self.llm_viewer_llm_s,
            "datasheet.ttft_s": self.datasheet_ttft_s,
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Rooflines":
        """The inverse of ``to_row``. Raises: KeyError for another row."""
        return cls(row["llm_viewer.llm.time_s"], row["datasheet.ttft_s"])


@dataclass(frozen=True)
class Prediction:
    """The predictions for one run.

    Args:
        hardware: name of the profile.
        predicted_at: UTC, ISO 8601.
        commit: of the code that predicted.
        calibration, calibration_sha256: of Way.public: device of the calibration, and the hash of
            its text.
        figures, rooflines: None where the model prices no such execution.
    """

    run: RunKey
    hardware: str
    predicted_at: str
    commit: str | None
    calibration: str | None
    calibration_sha256: str | None
    figures: Figures | None
    rooflines: Rooflines | None

    def span(self, way: Way) -> Span | None:
        """The time of ``way``: TTFT, or the LLM's. None where it was not predicted."""
        if self.figures is None or self.rooflines is None:
            return None
        match way:
            case Way.llm_viewer:
                return Span(self.rooflines.llm_viewer_llm_s)
            case Way.datasheet:
                return Span(self.rooflines.datasheet_ttft_s)
            case Way.public:
                return self.figures.ttft
            case Way.own:
                return None

    def to_row(self) -> Row:
        return {
            **self.run.to_row(),
            "hardware": self.hardware,
            "predicted_at": self.predicted_at,
            "commit": self.commit,
            "calibration": self.calibration,
            "calibration_sha256": self.calibration_sha256,
            **(self.figures.to_row() if self.figures else {}),
            **(self.rooflines.to_row() if self.rooflines else {}),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Prediction":
        """The inverse of ``to_row``. Raises: KeyError for another row."""
        run = RunKey.of(row)
        return cls(
            run=run,
            hardware=row["hardware"],
            predicted_at=row["predicted_at"],
            commit=row["commit"],
            calibration=row["calibration"],
            calibration_sha256=row["calibration_sha256"],
            figures=Figures.of(row) if run.execution.priced else None,
            rooflines=Rooflines.of(row) if run.execution.priced else None,
        )


def predict(
    spec: ModelSpec,
    run: RunKey,
    hardware: HardwareProfile,
    *,
    predicted_at: str,
    commit: str | None,
) -> Prediction:
    """The predictions of a run on ``hardware`` that need no measurement of that device."""
    calibration, sha256 = _public(hardware)
    return Prediction(
        run=run,
        hardware=hardware.name,
        predicted_at=predicted_at,
        commit=commit,
        calibration=calibration.hardware if calibration else None,
        calibration_sha256=sha256,
        figures=priced(spec, run, hardware) if run.execution.priced else None,
        rooflines=_rooflines(spec, run, hardware) if run.execution.priced else None,
    )


@functools.lru_cache(maxsize=4096)
def priced(spec: ModelSpec, run: RunKey, hardware: HardwareProfile) -> Figures:
    """FLOPs, times and memory of a prefill by the nearest shipped calibration; computed once."""
    return priced_by(_public(hardware)[0], spec, run, hardware)


def priced_by(
    calibration: Calibration | None, spec: ModelSpec, run: RunKey, hardware: HardwareProfile
) -> Figures:
    """FLOPs, times and memory of a prefill; as eager where the model prices no such execution.

    Args: calibration, of ``hardware``; None where there is none.
    """
    mode = run.execution if run.execution.priced else RunKind.EAGER
    execution = Execution(
        run.dtype, mode=mode.value, scoring=run.scoring, last_layer=run.last_layer
    )
    case = Case(spec, run.workload, hardware, execution, calibration)
    return Figures.of_estimate(case.price(run.schedule))


def _rooflines(spec: ModelSpec, run: RunKey, hardware: HardwareProfile) -> Rooflines:
    ideal = Execution(run.dtype, mode="ideal", scoring=run.scoring, last_layer=run.last_layer)
    case = Case(spec, run.workload, hardware, ideal)
    viewer, datasheet = case.price(run.schedule, LLM_VIEWER), case.price(run.schedule)
    return Rooflines(viewer.time("llm").time_s, datasheet.ttft_s)


@functools.lru_cache(maxsize=8)
def _public(hardware: HardwareProfile) -> tuple[Calibration | None, str | None]:
    """The nearest shipped calibration and the SHA-256 of its file's text."""
    found = nearest_calibration(hardware)
    return found, hashlib.sha256(found.to_yaml().encode()).hexdigest() if found else None
