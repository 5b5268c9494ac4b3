"""Case: one prefill on one device. Estimate: its FLOPs, traffic, time and memory."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from aim_cost.case.memory import Memory, prefill_memory
from aim_cost.case.notes import case_notes
from aim_cost.case.phase import PhaseEstimate
from aim_cost.case.table import (
    describe_workload,
    image_lines,
    memory_line,
    phase_table,
    token_lines,
    verdict,
)
from aim_cost.checks import instance
from aim_cost.conventions.convention import EXECUTED, Convention, get_convention
from aim_cost.devices.hardware import HardwareProfile, load_hardware
from aim_cost.errors import SpecError
from aim_cost.models.model import ModelSpec, load_model_spec
from aim_cost.models.workload import Execution, Workload
from aim_cost.ops.op import GROUPS, PHASES, OpGraph, in_phase
from aim_cost.render import Report
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import TokenTrace
from aim_cost.timing import Calibration, load_calibration
from aim_cost.timing.prefill_time import PhaseTime, TimeModel, combine, time_model

_NO_REDUCTION = Schedule()


@dataclass(frozen=True, init=False)
class Case:
    """One prefill on one device: all that its price depends on, except the schedule.

    Args:
        model: a spec, the name of a preset, the path of a ``config.json``, or ``owner/name``, a
            checkpoint of the hub.
        workload: the prompts.
        device: a profile, the name of a shipped one, or the path of a YAML file.
        execution: how the model is run; bfloat16, sdpa and eager by default.
        calibration: what times on ``device`` come from: a calibration, the name of a device that
            ships with one, or the path of a YAML file. By default the shipped one that is nearest.
    Names and paths are read once, when the case is made: the fields hold what they name.
    Raises: SpecError or ProfileError for an unknown name or a malformed file.
    """

    model: ModelSpec
    workload: Workload
    device: HardwareProfile
    execution: Execution
    calibration: Calibration | None

    def __init__(
        self,
        model: ModelSpec | str | Path,
        workload: Workload,
        device: HardwareProfile | str | Path,
        execution: Execution | None = None,
        calibration: Calibration | str | Path | None = None,
    ) -> None:
        instance(model, ModelSpec | str | Path, "model", SpecError, fix="Give a preset's name.")
        instance(workload, Workload, "workload", SpecError, fix="E.g. Workload(100, frames=32).")
        instance(device, HardwareProfile | str | Path, "device", SpecError, fix="E.g. h100-sxm.")
        instance(execution, Execution | None, "execution", SpecError, fix="E.g. Execution().")
        instance(
            calibration,
            Calibration | str | Path | None,
            "calibration",
            SpecError,
            fix="Give the name of a device that has one, or a path.",
        )
        if not isinstance(model, ModelSpec):
            model = load_model_spec(model)
        if not isinstance(device, HardwareProfile):
            device = load_hardware(device)
        if isinstance(calibration, str | Path):
            calibration = load_calibration(calibration)
        values = (model, workload, device, execution or Execution(), calibration)
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)

    def price(
        self, schedule: Schedule | str = _NO_REDUCTION, convention: Convention | str = EXECUTED
    ) -> "Estimate":
        """Resolve the schedule, build the graph of ops, and sum it up.

        Args:
            schedule: itself, or its text; no reduction by default.
            convention: how FLOPs are counted, by its name or itself.
        Raises: SpecError, ScheduleError or ProfileError where the inputs do not fit together.
        """
        if isinstance(convention, str):
            convention = get_convention(convention)
        schedule = Schedule.of(schedule)
        trace = convention.trace(schedule, self.model, self.workload, self.execution)
        graph = convention.build(self.model, self.workload, trace, self.execution)
        ideal = convention.ideal_time
        times = time_model(self.device, self.execution, self.calibration, ideal=ideal)
        return Estimate(self, schedule, convention, trace, graph, times)


@dataclass(frozen=True)
class Estimate(Report):
    """What ``Case.price`` returns: the token trace, the graph of ops, and sums over it.

    ``print`` and notebooks show it as the table of ``aim-cost predict``.
    """

    case: Case
    schedule: Schedule
    convention: Convention
    trace: TokenTrace
    graph: OpGraph = field(repr=False)
    time_model: TimeModel = field(repr=False)

    @property
    def model(self) -> ModelSpec:
        return self.case.model

    @property
    def workload(self) -> Workload:
        return self.case.workload

    @property
    def device(self) -> HardwareProfile:
        return self.case.device

    @property
    def execution(self) -> Execution:
        return self.case.execution

    @cached_property
    def baseline(self) -> "Estimate":
        """The same case under the same convention, without reduction."""
        return self.case.price(convention=self.convention)

    def __rich__(self) -> RenderableType:
        inputs = describe_workload(self.model, self.workload, self.execution, self.mode)
        title = (
            f"{self.model.name} on {self.device.name}, {self.execution.dtype}\n"
            f"{inputs}; schedule: {self.schedule.label()}"
        )
        phases = {name: self.phase(name) for name in GROUPS}
        total = PhaseEstimate.of(self.graph, self.ttft)
        lines = [
            *image_lines(self.workload.image_grids(self.model)),
            *token_lines(self.trace),
            memory_line(self.memory, self.device),
        ]
        if self.trace.reduces or self.schedule.sample is not None:
            lines.append(self._verdict())
        lines += self.notes
        return Group(phase_table(title, phases, total, self.convention), "", *lines)

    def _verdict(self) -> str:
        return verdict(
            self.convention,
            fewer_flops=self.baseline.phase("llm").flops / self.phase("llm").flops,
            baseline=self.baseline.ttft,
            ttft=self.ttft,
        )

    @cached_property
    def _times(self) -> dict[str, PhaseTime]:
        return self.time_model.phases(self.graph)

    def time(self, name: str) -> PhaseTime:
        """The time of a phase (``llm.head``) or a group of phases (``llm``)."""
        parts = [t for phase, t in self._times.items() if in_phase(phase, name)]
        return combine(parts)

    def phase(self, name: str) -> PhaseEstimate:
        """Sums of a phase (``llm.head``) or a group of phases (``llm``)."""
        return PhaseEstimate.of(self.graph.phase(name), self.time(name))

    @property
    def mode(self) -> str:
        """The execution that the times are for; some conventions know only the ideal one."""
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

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what the figures do not show; see ``case_notes``."""
        tokens = positions = self.trace.prompt_tokens
        if self.schedule.merge is not None and self.schedule.merge.positions == "kept":
            positions = Schedule().resolve(self.model, self.workload).prompt_tokens
        groups = self.trace.groups if self.workload.frames is not None else 0
        return case_notes(
            *(self.model, self.execution.dtype),
            tokens=tokens,
            positions=positions,
            groups=groups,
        )

    def to_row(self) -> dict[str, Any]:
        """One flat row, SI units, the same keys as a measured row; dots separate the levels.

        ``llm.macs`` is there only under conventions that count multiply-adds, ``images`` (height
        and width of each) only where images are given, ``notes`` only where there are some.
        """
        row: dict[str, Any] = {
            "kind": "estimate",
            "model": self.model.name,
            "layers": self.model.text.num_hidden_layers,
            "vision_layers": self.model.vision.num_hidden_layers,
            "hardware": self.device.name,
            "dtype": self.execution.dtype,
            "attention": self.execution.attention,
            "scoring": self.execution.scoring,
            "last_layer": self.execution.last_layer.value,
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
        if self.notes:
            row["notes"] = list(self.notes)
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
    model: ModelSpec | str | Path,
    workload: Workload,
    schedule: Schedule | str,
    device: HardwareProfile | str | Path,
    execution: Execution | None = None,
    convention: Convention | str = EXECUTED,
    calibration: Calibration | str | Path | None = None,
) -> Estimate:
    """Price one prefill in one call: ``Case(...).price(schedule, convention)``.

    Args and Raises: as of ``Case`` and ``Case.price``.
    """
    case = Case(model, workload, device, execution, calibration)
    return case.price(schedule, convention)
