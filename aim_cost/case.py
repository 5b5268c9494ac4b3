"""estimate(): FLOPs, traffic, time and memory of one prefill under one schedule."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aim_cost.conventions.convention import EXECUTED, Convention
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.memory import Memory, prefill_memory
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.ops.op import PHASES, OpGraph, in_phase
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import TokenTrace
from aim_cost.timing import Calibration
from aim_cost.timing.prefill_time import PhaseTime, TimeModel, combine, time_model

GROUPS = ("vision", "merge", "llm", "importance")
"""What a prefill is made of; each phase of the graph belongs to one of them."""


@dataclass(frozen=True)
class PhaseEstimate:
    """Sums over the ops of a phase; times, band, bound and the rest as in PhaseTime."""

    flops: int
    read_bytes: int
    write_bytes: int
    time_s: float
    time_low_s: float
    time_high_s: float | None
    bound: str
    source: str
    extrapolated: float


@dataclass(frozen=True)
class Estimate:
    """The answer of ``estimate``: its inputs, the token trace, the op graph, and sums over it."""

    model: ModelSpec
    workload: Workload
    schedule: Schedule
    hardware: HardwareProfile
    execution: Execution
    convention: Convention
    trace: TokenTrace
    graph: OpGraph
    time_model: TimeModel

    @cached_property
    def _times(self) -> dict[str, PhaseTime]:
        return self.time_model.phases(self.graph)

    def time(self, name: str) -> PhaseTime:
        """The time of a phase (``llm.head``) or a group of phases (``llm``)."""
        parts = [t for phase, t in self._times.items() if in_phase(phase, name)]
        return combine(parts)

    def phase(self, name: str) -> PhaseEstimate:
        """Sums of a phase (``llm.head``) or a group of phases (``llm``)."""
        graph, time = self.graph.phase(name), self.time(name)
        return PhaseEstimate(
            graph.flops,
            graph.read_bytes,
            graph.write_bytes,
            time.time_s,
            time.low_s,
            time.high_s,
            time.bound,
            time.source,
            time.extrapolated,
        )

    @property
    def mode(self) -> str:
        """The execution that the times are for: conventions may know the ideal alone."""
        return "ideal" if self.convention.ideal_time else self.execution.mode

    @property
    def flops(self) -> int:
        """FLOPs of the whole prefill under the convention."""
        return int(self.graph.flops)

    @property
    def macs(self) -> int | None:
        """Multiply-adds, half of the FLOPs; None under conventions that do not count them."""
        return self.flops // 2 if self.convention.counts_macs else None

    @cached_property
    def ttft(self) -> PhaseTime:
        """Vision, merging, prefill with scoring, and the first token's logits."""
        return combine(list(self._times.values()))

    @property
    def ttft_s(self) -> float:
        """Time to first token, seconds."""
        return self.ttft.time_s

    @cached_property
    def memory(self) -> Memory:
        """Weights, KV cache and peak. The same for every convention that counts the same tokens."""
        return prefill_memory(self.model, self.workload, self.trace, self.execution)

    def to_row(self) -> dict[str, Any]:
        """One flat row, SI units, the same keys as a measured row; dots separate the levels.

        ``llm.macs`` is there only under conventions that count multiply-adds, ``images`` (height
        and width of each) only where images are given.
        """
        row: dict[str, Any] = {
            "kind": "estimate",
            "model": self.model.name,
            "layers": self.model.text.num_hidden_layers,
            "vision_layers": self.model.vision.num_hidden_layers,
            "hardware": self.hardware.name,
            "dtype": self.execution.dtype,
            "attention": self.execution.attention,
            "scoring": self.execution.scoring,
            "last_layer": self.execution.last_layer,
            "execution": self.mode,
            "convention": self.convention.name,
            "frames": self.workload.frames,
            "image_tokens": self.workload.image_tokens,
            "frame_size": list(self.workload.sized(self.model).vision.frame_size),
            "text_tokens": self.workload.text_tokens,
            "batch": self.workload.batch,
            "schedule": self.schedule.label(),
        }
        for name in dict.fromkeys((*GROUPS, *PHASES)):
            row |= {f"{name}.{key}": value for key, value in vars(self.phase(name)).items()}
        if self.workload.images is not None:
            row["images"] = [list(size) for size in self.workload.images]
        if self.macs is not None:
            row["llm.macs"] = self.macs
        return row | {
            "total.flops": self.flops,
            "ttft_s": self.ttft.time_s,
            "ttft_low_s": self.ttft.low_s,
            "ttft_high_s": self.ttft.high_s,
            "bound": self.ttft.bound,
            "source": self.ttft.source,
            "extrapolated": self.ttft.extrapolated,
            "weights_bytes": self.memory.weights_bytes,
            "kv_cache_bytes": self.memory.kv_cache_bytes,
            "peak_memory_bytes": self.memory.peak_bytes,
            "tokens_per_layer": list(self.trace.attention_tokens),
            "tower_tokens_per_layer": list(self.trace.tower_tokens),
            "not_counted": list(self.convention.not_counted),
        }


def estimate(
    model: ModelSpec,
    workload: Workload,
    schedule: Schedule,
    hardware: HardwareProfile,
    execution: Execution | None = None,
    convention: Convention = EXECUTED,
    calibration: Calibration | None = None,
) -> Estimate:
    """Price one prefill: resolve the schedule, build the graph, sum it up.

    Args:
        execution: bfloat16, sdpa and eager by default.
        convention: how FLOPs are counted.
        calibration: of ``hardware``; by default the shipped one that is nearest.
    Raises: SpecError, ScheduleError or ProfileError where the inputs do not fit together.
    """
    execution = execution or Execution()
    trace = convention.trace(schedule, model, workload, execution)
    graph = convention.build(model, workload, trace, execution)
    times = time_model(hardware, execution, calibration, ideal=convention.ideal_time)
    return Estimate(model, workload, schedule, hardware, execution, convention, trace, graph, times)
