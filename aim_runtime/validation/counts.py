"""Counts: FLOPs and tokens of a schedule, predicted and as it ran; they must be equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.progress import track

from aim_cost.case import Case, Estimate
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.models.workload import Execution, LastLayer, Workload
from aim_cost.ops.op import PHASES
from aim_cost.render import Row, console
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import TokenTrace
from aim_cost.timing import Calibration
from aim_runtime.measurement.flops import count_flops
from aim_runtime.measurement.place import run_key
from aim_runtime.measurement.row_key import RunKey
from aim_runtime.models.load import Loaded
from aim_runtime.prompts.inputs import sized_inputs
from aim_runtime.reduction.importance_kernel import scoring


@dataclass(frozen=True)
class Counts:
    """One schedule on one case: what was predicted, and what ran.

    Args:
        run: the case and the schedule.
        predicted: FLOPs and times by the cost model.
        counted: FLOPs of each of PHASES that ran.
        tokens: the trace that ran.
    """

    run: RunKey
    predicted: Estimate
    counted: Mapping[str, int]
    tokens: TokenTrace

    @property
    def counted_flops(self) -> int:
        return sum(self.counted.values())

    @property
    def traces_equal(self) -> bool:
        return self.tokens == self.predicted.trace

    @property
    def flops_equal(self) -> bool:
        return not self._other_flops

    @property
    def differences(self) -> tuple[str, ...]:
        """What is not equal, in words."""
        if self.traces_equal:
            return self._other_flops
        trace = f"trace: predicted {self.predicted.trace}, ran {self.tokens}"
        return (*self._other_flops, trace)

    @cached_property
    def _other_flops(self) -> tuple[str, ...]:
        return flops_differences(self.predicted, self.counted)

    def to_row(self) -> Row:
        """A flat row: ``predicted.*`` and ``counted.*`` FLOPs, ``predicted.*.time_s``, verdicts."""
        predicted, ttft = self.predicted, self.predicted.ttft
        row: Row = {"schedule": self.run.schedule.label(), "differences": list(self.differences)}
        for name in PHASES:
            phase = predicted.phase(name)
            row[f"predicted.{name}.flops"] = phase.flops
            row[f"counted.{name}.flops"] = self.counted[name]
            row[f"predicted.{name}.time_s"] = phase.time_s
        return row | {
            "flops_equal": self.flops_equal,
            "predicted.total.flops": predicted.flops,
            "counted.total.flops": self.counted_flops,
            "predicted.vision.time_s": predicted.time("vision").time_s,
            "predicted.llm.time_s": predicted.time("llm").time_s,
            "predicted.ttft_s": ttft.time_s,
            "predicted.source": ttft.source,
            "predicted.ttft_low_s": ttft.low_s,
            "predicted.ttft_high_s": ttft.high_s,
            "predicted.peak_memory_bytes": predicted.memory.peak_bytes,
            "traces_equal": self.traces_equal,
        }


def flops_differences(predicted: Estimate, counted: Mapping[str, int]) -> tuple[str, ...]:
    """The phases whose counted FLOPs are not those predicted, in words."""
    flops = {name: predicted.graph.phase(name).flops for name in PHASES}
    return tuple(
        f"{name}: predicted {flops[name]} FLOPs, counted {counted[name]}"
        for name in PHASES
        if flops[name] != counted[name]
    )


def check_counts(
    loaded: Loaded,
    workload: Workload,
    schedules: Sequence[Schedule],
    hardware: HardwareProfile,
    calibration: Calibration | None = None,
    video: np.ndarray | None = None,
    last_layer: LastLayer = LastLayer.ALL,
) -> list[Counts]:
    """Run each schedule once, and set its token trace and FLOPs against what is predicted.

    Args: video and last_layer, as of ``validate``. Returns: in the order of ``schedules``.
    """
    inputs = sized_inputs(loaded, workload, video=video)
    execution = Execution(dtype=loaded.dtype, scoring=scoring(loaded.device), last_layer=last_layer)
    case = Case(loaded.spec, workload, hardware, execution, calibration)
    found = []
    for schedule in track(schedules, "counting", console=console(error=True), transient=True):
        predicted = case.price(schedule)
        counted, tokens = count_flops(
            loaded,
            schedule,
            lambda: loaded.model(**inputs, use_cache=True, logits_to_keep=1),
            last_layer=last_layer,
        )
        run = run_key(loaded, workload, schedule, last_layer=last_layer)
        by_phase = {name: counted.get(name, 0) for name in PHASES}
        found.append(Counts(run, predicted, by_phase, tokens))
    return found
