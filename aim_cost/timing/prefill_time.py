"""PhaseTime: the time of a phase, its band, what limits it, and the source of the figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aim_cost.devices.hardware import HardwareProfile
from aim_cost.devices.roofline import Roofline
from aim_cost.models.workload import Execution
from aim_cost.ops.op import PHASES, OpGraph, in_phase
from aim_cost.timing import Calibration, OpTimeModel, calibration_names, load_calibration
from aim_cost.timing.distinct import Distinct
from aim_cost.timing.form import Array, Index, Mask
from aim_cost.timing.kernel_model import KernelTimes
from aim_cost.timing.op_time import kind_of
from aim_cost.timing.time_source import TimeSource


@dataclass(frozen=True)
class PhaseTime:
    """Seconds of a phase.

    Args:
        time_s, low_s, high_s: the estimate and its 90 % band; ``high_s`` is None where the time is
            a lower bound.
        bound: ``compute``, ``memory``, ``host``, or ``none`` where nothing runs.
        source: where the time comes from.
        extrapolated: share of ``time_s`` from kernels of sizes, or of a kind, that the calibration
            never saw; 0 for a roofline.
    """

    time_s: float
    low_s: float
    high_s: float | None
    bound: str
    source: TimeSource
    extrapolated: float = 0.0


def is_faster(one: PhaseTime, other: PhaseTime) -> bool | None:
    """Whether ``one`` takes less time than ``other``; None where the band of one holds the other.

    Lower bounds have no band, so they are compared as they are.
    """
    for band, time_s in ((one, other.time_s), (other, one.time_s)):
        if band.high_s is not None and band.low_s <= time_s <= band.high_s:
            return None
    return one.time_s < other.time_s


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
    source: TimeSource

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

    @property
    def source(self) -> TimeSource:
        return TimeSource.INHERITED if self.model.inherited else TimeSource.CALIBRATED

    def phases(self, graph: OpGraph) -> dict[str, PhaseTime]:
        distinct = Distinct.of(graph.ops)
        names = np.array([op.phase for op in distinct.ops], dtype=np.str_)
        kernels = self.model.times(distinct.ops).at(distinct.places)
        host_s = distinct.each(self.model.host_s(distinct.ops))
        spent_s = kernels.time_s.copy()
        for groups in (("llm", "importance"), ("vision", "merge")):
            segment = distinct.each(_names_in(names, *groups))
            spent_s[segment] = _spent_s(host_s[segment], kernels.time_s[segment])
        labels = [kind_of(op).label for op in distinct.ops]
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        run = _Run(
            phases=distinct.each(names),
            kinds=distinct.each(np.array([numbers[label] for label in labels], dtype=np.int64)),
            compute=distinct.each(
                np.array([self.roofline.is_compute_bound(op) for op in distinct.ops], dtype=bool)
            ),
            kernels=kernels,
            spent_s=spent_s,
        )
        return {name: self._phase(run, run.phases == name) for name in PHASES}

    def _phase(self, run: "_Run", inside: Mask) -> PhaseTime:
        source = self.source
        if not inside.any():
            return PhaseTime(0.0, 0.0, 0.0, "none", source)
        kernels, kinds = run.kernels, run.kinds[inside]
        device_s, total_s = kernels.time_s[inside], float(run.spent_s[inside].sum())
        waiting_s = total_s - float(device_s.sum())
        host = self.model.calibration.dispatch.host_s_per_kernel
        below = _spread(kinds, device_s - kernels.low_s[inside])
        above = _spread(kinds, kernels.high_s[inside] - device_s)
        compute_s = float(device_s[run.compute[inside]].sum())
        device_bound = "compute" if 2 * compute_s >= device_s.sum() else "memory"
        return PhaseTime(
            total_s,
            total_s - float(np.hypot(below, waiting_s * (1 - host.low / host.value))),
            total_s + float(np.hypot(above, waiting_s * (host.high / host.value - 1))),
            "host" if 2 * waiting_s > total_s else device_bound,
            source,
            float(run.spent_s[inside & kernels.extrapolated].sum()) / total_s,
        )


@dataclass(frozen=True)
class _Run:
    """What each op of a prefill is and takes, [N] each."""

    phases: NDArray[np.str_]
    kinds: Index
    compute: Mask
    kernels: KernelTimes
    spent_s: Array


def _spent_s(host_s: Array, device_s: Array) -> Array:
    """Seconds by which each op moves the end of the segment, waits for the host included."""
    behind_s = np.maximum.accumulate(np.maximum(np.cumsum(host_s) - np.cumsum(device_s), 0.0))
    # added to the time of each op, which a difference of large sums would lose
    spent_s: Array = device_s + np.diff(behind_s, prepend=0.0)
    return spent_s


def _names_in(names: NDArray[np.str_], *groups: str) -> Mask:
    """Which of the phase ``names`` belong to one of ``groups``."""
    return np.array([any(in_phase(name, group) for group in groups) for name in names], dtype=bool)


def _spread(kinds: Index, errors_s: Array) -> float:
    """The error of a sum of times, seconds; only errors of the same kind of kernels add up."""
    return float(np.sqrt((np.bincount(kinds, errors_s) ** 2).sum()))


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
    measured = hardware.peak.memory_bandwidth_bytes_per_s.measured
    return RooflineTime(roofline, TimeSource.MEASURED if measured else TimeSource.DATASHEET)


def nearest_calibration(hardware: HardwareProfile) -> Calibration | None:
    """The calibration of a device, or the one that its profile names as nearest; None without."""
    if hardware.name in calibration_names():
        return load_calibration(hardware.name)
    return load_calibration(hardware.nearest) if hardware.nearest is not None else None
