"""What the model says of a run before the clock has run."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aim_cost.case import estimate
from aim_cost.conventions.convention import EXECUTED, LLM_VIEWER
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution
from aim_cost.ops.op import GROUPS, PHASES
from aim_cost.timing.calibration import Calibration
from aim_cost.timing.prefill_time import nearest_calibration
from aim_runtime.measurement.row_key import Row, RunKey

PRICED = ("eager", "cuda-graph")
"""Executions that the model prices; pruning by masks and decoding are measured only."""


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
class Span:
    """A predicted time with its 90 % band, seconds; no band for a roofline."""

    time_s: float
    low_s: float | None = None
    high_s: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The predictions for one run.

    Args:
        hardware: name of the profile.
        predicted_at: UTC, ISO 8601.
        commit: of the code that predicted.
        calibration, calibration_sha256: of Way.public: device of the calibration, and the hash of
            its text.
        figures: FLOPs, times and memory under the keys of estimates; empty where the execution is
            none of PRICED.
    """

    run: RunKey
    hardware: str
    predicted_at: str
    commit: str | None
    calibration: str | None
    calibration_sha256: str | None
    figures: Mapping[str, Any]

    def span(self, way: Way) -> Span | None:
        """The time of ``way``: TTFT, or the LLM's. None where it was not predicted."""
        if way is Way.public and "ttft_s" in self.figures:
            return Span(*(self.figures[f"ttft_{name}s"] for name in ("", "low_", "high_")))
        time_s = self.figures.get(_ROOFLINES.get(way, ""))
        return None if time_s is None else Span(time_s)

    def to_row(self) -> Row:
        row = {name: value for name, value in vars(self).items() if name not in _NESTED}
        return {**self.run.to_row(), **row, **self.figures}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Prediction":
        """The inverse of ``to_row``. Raises: KeyError for another row."""
        run = RunKey.of(row)
        facts = {name: row[name] for name in cls.__dataclass_fields__ if name not in _NESTED}
        known = {*run.to_row(), *facts}
        return cls(run, **facts, figures={k: v for k, v in row.items() if k not in known})


_NESTED = ("run", "figures")
_ROOFLINES = {Way.llm_viewer: "llm_viewer.llm.time_s", Way.datasheet: "datasheet.ttft_s"}


def predict(
    spec: ModelSpec,
    run: RunKey,
    hardware: HardwareProfile,
    *,
    predicted_at: str,
    commit: str | None,
) -> Prediction:
    """All that the model says of a run on ``hardware`` without measurements of that device."""
    calibration, sha256 = _public(hardware)
    figures = priced(spec, run, hardware) if run.execution in PRICED else {}
    return Prediction(
        run,
        hardware.name,
        predicted_at,
        commit,
        calibration.hardware if calibration else None,
        sha256,
        {**figures, **rooflines(spec, run, hardware)} if figures else {},
    )


@functools.lru_cache(maxsize=4096)
def priced(spec: ModelSpec, run: RunKey, hardware: HardwareProfile) -> Mapping[str, Any]:
    """FLOPs, times and memory of a prefill by the nearest shipped calibration; computed once."""
    return priced_by(_public(hardware)[0], spec, run, hardware)


def priced_by(
    calibration: Calibration | None, spec: ModelSpec, run: RunKey, hardware: HardwareProfile
) -> Mapping[str, Any]:
    """FLOPs, times and memory of a prefill; as eager where its execution is none of PRICED.

    Args: calibration, of ``hardware``; None where there is none.
    """
    mode = run.execution if run.execution in PRICED else "eager"
    found = estimate(
        *(spec, run.workload, run.parsed_schedule(), hardware),
        Execution(run.dtype, mode=mode, scoring=run.scoring, last_layer=run.last_layer),
        calibration=calibration,
    )
    figures: Row = {}
    for name in dict.fromkeys((*GROUPS, *PHASES)):
        time = found.time(name)
        figures[f"{name}.time_s"] = time.time_s
        figures[f"{name}.time_low_s"] = time.low_s
        figures[f"{name}.time_high_s"] = time.high_s
        figures[f"{name}.flops"] = found.graph.phase(name).flops
    return figures | {
        "total.flops": found.flops,
        "ttft_s": found.ttft.time_s,
        "ttft_low_s": found.ttft.low_s,
        "ttft_high_s": found.ttft.high_s,
        "source": found.ttft.source,
        "extrapolated": found.ttft.extrapolated,
        "weights_bytes": found.memory.weights_bytes,
        "kv_cache_bytes": found.memory.kv_cache_bytes,
        "peak_memory_bytes": found.memory.peak_bytes,
        "prompt_tokens": found.trace.prompt_tokens,
        "tokens_per_layer": list(found.trace.attention_tokens),
    }


@functools.lru_cache(maxsize=4096)
def rooflines(spec: ModelSpec, run: RunKey, hardware: HardwareProfile) -> Mapping[str, Any]:
    """The LLM's time by LLM-Viewer's roofline, and TTFT by that of the datasheet."""
    schedule = run.parsed_schedule()
    ideal = Execution(run.dtype, mode="ideal", scoring=run.scoring, last_layer=run.last_layer)
    viewer = estimate(spec, run.workload, schedule, hardware, ideal, LLM_VIEWER)
    datasheet = estimate(spec, run.workload, schedule, hardware, ideal, EXECUTED)
    return {
        _ROOFLINES[Way.llm_viewer]: viewer.time("llm").time_s,
        _ROOFLINES[Way.datasheet]: datasheet.ttft_s,
    }


@functools.lru_cache(maxsize=8)
def _public(hardware: HardwareProfile) -> tuple[Calibration | None, str | None]:
    """The nearest shipped calibration and the SHA-256 of its file's text."""
    found = nearest_calibration(hardware)
    return found, hashlib.sha256(found.to_yaml().encode()).hexdigest() if found else None
