"""Roofline time: a lower bound from datasheet peaks."""

from dataclasses import dataclass

from aim_cost.devices.hardware import HardwareProfile
from aim_cost.ops.op import Op, OpGraph


@dataclass(frozen=True)
class Roofline:
    """The two ceilings of a device for one dtype: dense FLOP/s and memory bytes/s."""

    flops_per_s: float
    bytes_per_s: float

    @classmethod
    def of(cls, hardware: HardwareProfile, dtype: str) -> "Roofline":
        """The datasheet ceilings. Raises ProfileError when the device has no peak for ``dtype``."""
        return cls(hardware.peak_flops_per_s(dtype), float(hardware.memory_bandwidth_bytes_per_s))

    def op_time_s(self, op: Op) -> float:
        """The larger of compute time and memory time of one op, seconds."""
        return float(max(op.flops / self.flops_per_s, op.bytes / self.bytes_per_s))

    def time_s(self, graph: OpGraph) -> float:
        """Seconds of all ops, one after the other, without any time to launch them."""
        return sum(self.op_time_s(op) for op in graph)

    def is_compute_bound(self, op: Op) -> bool:
        """Whether FLOP/s limit the op rather than memory bytes/s."""
        return bool(op.flops / self.flops_per_s >= op.bytes / self.bytes_per_s)

    def bound(self, graph: OpGraph) -> str:
        """``compute`` if ops bound by FLOP/s take most of the time, ``memory`` if not; ``none``."""
        total = self.time_s(graph)
        compute = sum(self.op_time_s(op) for op in graph if self.is_compute_bound(op))
        return "none" if total == 0 else "compute" if 2 * compute >= total else "memory"
