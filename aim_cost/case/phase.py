"""PhaseEstimate: the FLOPs, traffic and time of a phase."""

from dataclasses import dataclass

from aim_cost.ops.op import OpGraph
from aim_cost.timing.prefill_time import PhaseTime
from aim_cost.timing.time_source import TimeSource


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
    source: TimeSource
    extrapolated: float

    @classmethod
    def of(cls, graph: OpGraph, time: PhaseTime) -> "PhaseEstimate":
        """The sums over ``graph``, whose ops take ``time``."""
        return cls(
            flops=graph.flops,
            read_bytes=graph.read_bytes,
            write_bytes=graph.write_bytes,
            time_s=time.time_s,
            time_low_s=time.low_s,
            time_high_s=time.high_s,
            bound=time.bound,
            source=time.source,
            extrapolated=time.extrapolated,
        )
