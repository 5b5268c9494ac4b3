"""PhaseTime: the time of a phase, its band, what limits it, and the source of the figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aim_cost.devices.hardware import HardwareProfile
from aim_cost.devices.roofline import Roofline
from aim_cost.models.workload import Execution
from aim_cost.ops.op import PHASES, Op, OpGraph, in_phase
from aim_cost.timing import Calibration, OpTimeModel, calibration_names, load_calibration
from aim_cost.timing.form import Array, Mask
from aim_cost.timing.kernel_model import KernelTimes
from aim_cost.timing.op_time import kind_of


@dataclass(frozen=True)
class PhaseTime:
    """Seconds of a phase.

    Args:
        time_s, low_s, high_s: the estimate and its 90 % band; ``high_s`` is None where the time is
            a lower bound.
        bound: ``compute``, ``memory``, ``host``, or ``none`` where nothing runs.
        source: ``datasheet`` (roofline on peaks), ``measured`` (roofline on measured ceilings),
            ``calibrated``, or ``inherited`` (the calibration of another device).
        extrapolated: share of ``time_s`` from kernels of sizes, or of a kind, that the calibration
            never saw; 0 for a roofline.
    """

    time_s: float
    low_s: float
    high_s: float | None
    bound: str
    source: str
    extrapolated: float = 0.0


def combine(parts: Sequence[PhaseTime]) -> PhaseTime:
    """The time of phases in sequence: times add up, and so do their errors, which phases share."""
    highs = [part.high_s for part in parts if part.high_s is not None]
    longest = max(parts, key=lambda part: part.time_s)
    time_s = sum(part.time_s for part in parts)
    unseen_s = sum(part.extrapolated * part.time_s for part in parts)
    return PhaseTime(
        time_s,
        sum(part.low_s for part in parts),
        sum(highs) if len(highs) == len(parts) else None,
        longest.bound,
        longest.source,
        unseen_s / time_s if time_s else 0.0,
    )


class TimeModel(Protocol):
    """Turns the ops of a prefill into seconds, phase by phase."""

    def phases(self, graph: OpGraph) -> dict[str, PhaseTime]:
        """The time of each of PHASES; they add up to the time of the prefill."""
        ...


@dataclass(frozen=True)
class RooflineTime:
    """The roofline: a lower bound, without launches and inefficiency."""

    roofline: Roofline
    source: str

    def phases(self, graph: OpGraph) -> dict[str, PhaseTime]:
        return {name: self._phase(graph.phase(name)) for name in PHASES}

    def _phase(self, graph: OpGraph) -> PhaseTime:
        time_s = self.roofline.time_s(graph)
        return PhaseTime(time_s, time_s, None, self.roofline.bound(graph), self.source)


@dataclass(frozen=True)
class CalibratedTime:
    """Kernel times from a calibration, on a device that waits for a host that starts the kernels.

    The host runs ahead while the device is busy, so a kernel ends when the one before it has ended
    and it has run, but not before the host has started it. Before the decoder the host waits for
    the device once: transformers compares placeholders and features there.
    """

    model: OpTimeModel
    roofline: Roofline

    def phases(self, graph: OpGraph) -> dict[str, PhaseTime]:
        kernels = self.model.times(graph.ops)
        names = np.array([op.phase for op in graph])
        spent_s = kernels.time_s.copy()
        for segment in (_names_in(names, "llm", "importance"), _names_in(names, "vision", "merge")):
            ops = [op for op, inside in zip(graph, segment, strict=True) if inside]
            spent_s[segment] = self._spent_s(ops, kernels.time_s[segment])
        return {name: self._phase(graph, names == name, kernels, spent_s) for name in PHASES}

    def _spent_s(self, ops: Sequence[Op], device_s: Array) -> Array:
        """Seconds by which each op moves the end of the segment, waits for the host included."""
        host_end_s = np.cumsum(self.model.host_s(ops))
        behind_s = np.maximum.accumulate(np.maximum(host_end_s - np.cumsum(device_s), 0.0))
        # added to the time of each op, which a difference of large sums would lose
        spent_s: Array = device_s + np.diff(behind_s, prepend=0.0)
        return spent_s

    def _phase(
        self, graph: OpGraph, inside: Mask, kernels: KernelTimes, spent_s: Array
    ) -> PhaseTime:
        source = "inherited" if self.model.inherited else "calibrated"
        ops = [op for op, chosen in zip(graph, inside, strict=True) if chosen]
        if not ops:
            return PhaseTime(0.0, 0.0, 0.0, "none", source)
        device_s, total_s = kernels.time_s[inside], float(spent_s[inside].sum())
        waiting_s = total_s - float(device_s.sum())
        host = self.model.calibration.dispatch.host_s_per_kernel
        below = _spread(ops, device_s - kernels.low_s[inside])
        above = _spread(ops, kernels.high_s[inside] - device_s)
        compute_s = sum(
            t for op, t in zip(ops, device_s, strict=True) if self.roofline.is_compute_bound(op)
        )
        device_bound = "compute" if 2 * compute_s >= device_s.sum() else "memory"
        return PhaseTime(
            total_s,
            total_s - float(np.hypot(below, waiting_s * (1 - host.low / host.value))),
            total_s + float(np.hypot(above, waiting_s * (host.high / host.value - 1))),
            "host" if 2 * waiting_s > total_s else device_bound,
            source,
            float(spent_s[inside & kernels.extrapolated].sum()) / total_s,
        )


def _names_in(names: NDArray[np.str_], *groups: str) -> Mask:
    """Which of the phase ``names`` belong to one of ``groups``."""
    return np.array([any(in_phase(name, group) for group in groups) for name in names], dtype=bool)


def _spread(ops: Sequence[Op], errors_s: Array) -> float:
    """The error of a sum of times, seconds; only errors of the same kind of kernels add up."""
    sums: dict[str, float] = {}
    for op, error in zip(ops, errors_s, strict=True):
        label = kind_of(op).label
        sums[label] = sums.get(label, 0.0) + float(error)
    return float(np.sqrt(sum(error**2 for error in sums.values())))


def time_model(
    hardware: HardwareProfile,
    execution: Execution,
    calibration: Calibration | None = None,
    *,
    ideal: bool = False,
) -> TimeModel:
    """The time model of a device.

    Args:
        calibration: by default the device's own, or the one that its profile names as nearest.
        ideal: the roofline whatever the execution says, for conventions that know no other time.
    Raises: ProfileError when the device has no peak for the dtype.
    """
    roofline = Roofline.of(hardware, execution.dtype)
    if not ideal and execution.mode != "ideal":
        found = calibration or nearest_calibration(hardware)
        if found is not None:
            model = OpTimeModel.from_calibration(found, hardware, execution.dtype, execution.mode)
            return CalibratedTime(model, roofline)
    measured = hardware.peak.memory_bandwidth_bytes_per_s.source.startswith("measured")
    return RooflineTime(roofline, "measured" if measured else "datasheet")


def nearest_calibration(hardware: HardwareProfile) -> Calibration | None:
    """The calibration of a device, or the one that its profile names as nearest; None without."""
    if hardware.name in calibration_names():
        return load_calibration(hardware.name)
    return load_calibration(hardware.nearest) if hardware.nearest is not None else None
