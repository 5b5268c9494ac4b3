"""OpTimeModel: the time of any op of the graph, with its band, on a calibrated device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aim_cost.checks import one_of
from aim_cost.devices.hardware import HardwareProfile, load_hardware
from aim_cost.errors import ProfileError, SpecError
from aim_cost.ops.op import Count, Op
from aim_cost.ops.reduction import FUSED_IMPORTANCE, FUSED_IMPORTANCE_LAUNCHES
from aim_cost.timing.calibration import Calibration
from aim_cost.timing.elementwise import (
    MEASURED_KINDS,
    Elementwise,
    general_kind,
    measured_kind,
    op_parts,
)
from aim_cost.timing.form import Array, Ceilings, Mask
from aim_cost.timing.fused_score import FUSED_SCORE
from aim_cost.timing.kernel_model import KernelTimes
from aim_cost.units import dtype_bytes

EXECUTIONS = ("eager", "cuda-graph", "fused")
"""``eager``: transformers as it is. ``cuda-graph``: the same kernels, started by the device.
``fused``: an engine that runs each elementwise op as one kernel that moves the least bytes."""

# Log error added to the band where a calibration is used on another device. Measured between the
# shipped ones: H100 and H200 from each other, and A100 and H100 from each other (90 % of rows).
SAME_ARCHITECTURE = 0.17
OTHER_ARCHITECTURE = 0.33
# The same for batched products, for attention of the other kind and for that of a single query,
# which no table holds.
UNMEASURED_KIND = 0.33
_ROW_ATTENTION = "row_attention"


@dataclass(frozen=True)
class OpTime:
    """Seconds of one op on the device, the 90 % band, and whether its sizes were never measured.

    Floats and a bool for an op of ints; arrays of one shape for an op of arrays.
    """

    time_s: Any
    low_s: Any
    high_s: Any
    extrapolated: Any


@dataclass(frozen=True)
class OpTimeModel:
    """Prices ops on a device. Make it with ``from_calibration``.

    Args: calibration; ceilings and bytes_per_s of the device priced; widening, log error added to
    every band; inherited, True where the calibration is that of another device or of another width
    of elements; execution, one of EXECUTIONS.
    """

    calibration: Calibration
    ceilings: Ceilings
    bytes_per_s: float
    widening: float
    inherited: bool
    execution: str

    @classmethod
    def from_calibration(
        cls,
        calibration: Calibration,
        hardware: HardwareProfile | None = None,
        dtype: str = "bfloat16",
        execution: str = "eager",
    ) -> "OpTimeModel":
        """The calibration on its own device, or inherited by ``hardware`` with a wider band.

        Raises: ProfileError when the device lacks a peak, or the calibration has no GEMM.
        """
        one_of(execution, EXECUTIONS, "execution", SpecError)
        if "gemm" not in calibration.kernels:
            raise ProfileError(
                f"calibration of {calibration.hardware}",
                expected="a fit of gemm",
                got=", ".join(calibration.kernels) or "none",
                fix="Add the GEMM table and fit again with aim-cost calibrate.",
            )
        hardware = hardware or load_hardware(calibration.hardware)
        elsewhere = hardware.name != calibration.hardware
        same_width = dtype_bytes(dtype) == dtype_bytes(calibration.dtype)
        widening = 0.0
        if not same_width:
            widening = OTHER_ARCHITECTURE
        elif elsewhere:
            own = load_hardware(calibration.hardware)
            same = own.architecture == hardware.architecture
            widening = SAME_ARCHITECTURE if same else OTHER_ARCHITECTURE
        return cls(
            calibration,
            Ceilings.of(hardware, dtype),
            float(hardware.memory_bandwidth_bytes_per_s),
            widening,
            elsewhere or not same_width,
            execution,
        )

    def time(self, op: Op) -> OpTime:
        """Seconds of one op; its counts may be ints, or numpy arrays that broadcast."""
        kind, dims = _sizes(op)
        values = np.broadcast_arrays(np.asarray(op.bytes, dtype=float), *dims)
        flat = [np.asarray(value, dtype=float).ravel() for value in values]
        times = self._price(kind, "batch" in op.shape, flat[0], tuple(flat[1:]))
        parts = (times.time_s, times.low_s, times.high_s, times.extrapolated)
        if values[0].ndim == 0:
            return OpTime(*(part[0].item() for part in parts))
        return OpTime(*(part.reshape(values[0].shape) for part in parts))

    def times(self, ops: Sequence[Op]) -> KernelTimes:
        """Seconds of each op of ints, [len(ops)], priced together kind by kind."""
        groups: dict[tuple[str, bool], list[int]] = {}
        sized = [_sizes(op) for op in ops]
        for place, (op, (kind, _)) in enumerate(zip(ops, sized, strict=True)):
            groups.setdefault((kind, "batch" in op.shape), []).append(place)
        parts = [np.empty(len(ops)) for _ in range(3)]
        extrapolated = np.zeros(len(ops), dtype=bool)
        for (kind, batched), places in groups.items():
            moved = np.array([ops[place].bytes for place in places], dtype=float)
            columns = zip(*(sized[place][1] for place in places), strict=True)
            dims = tuple(np.array(column, dtype=float) for column in columns)
            times = self._price(kind, batched, moved, dims)
            for part, found in zip(parts, (times.time_s, times.low_s, times.high_s), strict=True):
                part[places] = found
            extrapolated[places] = times.extrapolated
        return KernelTimes(parts[0], parts[1], parts[2], extrapolated)

    def kernels(self, op: Op) -> Count:
        """Kernels that are launched for one op; the importance score runs block by block."""
        return self._kernels_of(_sizes(op)[0]) * op_parts(op)

    def host_s(self, ops: Sequence[Op]) -> Array:
        """Seconds the host needs to start the kernels of each op, [len(ops)]; 0 unless eager.

        Where the sizes of the ops are arrays, [len(ops), sizes].
        """
        each = self.calibration.dispatch.host_s_per_kernel.value
        kernels = np.array([self.kernels(op) for op in ops], dtype=float)
        return each * kernels if self.execution == "eager" else np.zeros(kernels.shape)

    def _price(
        self, kind: str, batched: bool, moved_bytes: Array, dims: tuple[Array, ...]
    ) -> KernelTimes:
        if kind == FUSED_IMPORTANCE and kind not in self.calibration.kernels:
            return self._fused_score(dims)
        if kind == _ROW_ATTENTION:  # a few queries read all keys and values: memory alone counts
            times = self._price("copy", batched, moved_bytes, dims)
            return _widened(times, UNMEASURED_KIND, extrapolated=True)
        if kind in MEASURED_KINDS:
            times = self._elementwise(self._entry(kind), moved_bytes, dims[0])
        elif kind == "gemm":
            times = self.calibration.kernels["gemm"].model.times(self.ceilings, dims)
            if batched:  # as one product with as many rows, but no faster than its own bytes
                times = _scaled(times, np.maximum(1, moved_bytes / self.bytes_per_s / times.time_s))
                times = _widened(times, UNMEASURED_KIND, extrapolated=True)
        elif kind in self.calibration.kernels:
            times = self.calibration.kernels[kind].model.times(self.ceilings, dims)
        else:
            times = self._other_attention(kind, dims)
        if self.execution == "eager":  # the tables were measured inside CUDA graphs
            launches = self._kernels_of(kind) * (dims[0] if kind in MEASURED_KINDS else 1)
            times = _delayed(times, launches * self._launch_gap_s)
        return _widened(times, self.widening) if self.widening else times

    def _fused_score(self, dims: tuple[Array, ...]) -> KernelTimes:
        """By the count of instructions, where no table of the device has timed it."""
        if math.isnan(self.ceilings.clock_hz):
            raise ProfileError(
                "peak.boost_clock_hz",
                expected="the clock, by which the fused score is priced",
                got="none",
                fix="Add it to the profile, or price scoring torch.",
            )
        time_s = FUSED_SCORE.law(FUSED_SCORE.start, self.ceilings, dims)
        exact = KernelTimes(time_s, time_s, time_s, np.zeros(len(time_s), dtype=bool))
        return _widened(exact, UNMEASURED_KIND, extrapolated=True)

    @property
    def _launch_gap_s(self) -> float:
        dispatch = self.calibration.dispatch
        return max(0.0, dispatch.launch_s.value - dispatch.graph_launch_s.value)

    def _kernels_of(self, kind: str) -> int:
        if kind == FUSED_IMPORTANCE:
            return FUSED_IMPORTANCE_LAUNCHES
        single = self.execution == "fused" or kind not in MEASURED_KINDS
        return 1 if single else self._entry(kind).kernels

    def _entry(self, kind: str) -> Elementwise:
        known = self.calibration.elementwise
        return known[kind] if kind in known else known[general_kind(kind)]

    def _elementwise(self, entry: Elementwise, moved_bytes: Array, parts: Array) -> KernelTimes:
        if self.execution == "fused":
            entry = self.calibration.elementwise["add"]
        launches_s = entry.kernels * self.calibration.dispatch.graph_launch_s.value
        start_s = parts * (launches_s if entry.start_s is None else entry.start_s)
        least_s = entry.traffic * moved_bytes / self.bytes_per_s
        return KernelTimes(
            start_s + least_s / entry.efficiency,
            start_s + least_s / entry.high,
            start_s + least_s / entry.low,
            np.zeros(len(moved_bytes), dtype=bool),
        )

    def _other_attention(self, kind: str, dims: tuple[Array, ...]) -> KernelTimes:
        """Full attention does twice the work of causal attention of the same sizes."""
        causal = kind == "causal_attention"
        other = "encoder_attention" if causal else "causal_attention"
        if other not in self.calibration.kernels:
            raise ProfileError(
                f"calibration of {self.calibration.hardware}",
                expected="a fit of attention",
                got=", ".join(self.calibration.kernels),
                fix="Add an attention table and fit again with aim-cost calibrate.",
            )
        times = self.calibration.kernels[other].model.times(self.ceilings, dims)
        ratio = np.full(len(times.time_s), 0.5 if causal else 2.0)
        return _widened(_scaled(times, ratio), UNMEASURED_KIND, extrapolated=True)


def price_kind(op: Op) -> str:
    """The kind of kernel that prices an op: a form, or a kind of elementwise kernel."""
    return _sizes(op)[0]


def _sizes(op: Op) -> tuple[str, tuple[Any, ...]]:
    """The kind that prices an op, and its sizes in the order of the form of that kind."""
    shape = op.shape
    if "m" in shape:
        return "gemm", (shape.get("batch", 1) * shape["m"], shape["n"], shape["k"])
    if op.name == FUSED_IMPORTANCE:
        heads = (shape["heads"], shape["key_value_heads"])
        return FUSED_IMPORTANCE, (shape["tokens"], shape["batch"], *heads, shape["head_dim"])
    if "key_value_heads" in shape and op.name != "softmax":
        tokens, head_dim = shape["tokens"], shape["head_dim"]
        rows = shape["batch"] * shape["heads"] * shape.get("queries", tokens)
        if op.name == "scores":
            return "gemm", (rows, tokens, head_dim)
        if op.name == "values":
            return "gemm", (rows, head_dim, tokens)
        if "queries" in shape:
            return _ROW_ATTENTION, (1,)
        kind = "causal_attention" if op.phase.startswith("llm") else "encoder_attention"
        sizes = (shape["batch"], shape["heads"], shape["key_value_heads"])
        return kind, (tokens, *sizes, head_dim)
    return measured_kind(op), (op_parts(op),)


def _scaled(times: KernelTimes, ratio: Array) -> KernelTimes:
    return KernelTimes(
        times.time_s * ratio, times.low_s * ratio, times.high_s * ratio, times.extrapolated
    )


def _delayed(times: KernelTimes, delay_s: float | Array) -> KernelTimes:
    return KernelTimes(
        times.time_s + delay_s, times.low_s + delay_s, times.high_s + delay_s, times.extrapolated
    )


def _widened(times: KernelTimes, error: float, *, extrapolated: bool = False) -> KernelTimes:
    """Add an independent log error to the band."""
    low = np.hypot(np.log(times.time_s / times.low_s), error)
    high = np.hypot(np.log(times.high_s / times.time_s), error)
    flags: Mask = times.extrapolated | extrapolated
    return KernelTimes(
        times.time_s, times.time_s * np.exp(-low), times.time_s * np.exp(high), flags
    )
