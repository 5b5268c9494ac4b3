"""Op: one kernel-sized piece of work. OpGraph: all of them, in the order they run."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat

from aim_cost.ops.count import Count
from aim_cost.ops.kind import Kind

PHASES = (
    "vision.tower",
    "vision.projector",
    "vision.pooling",
    "merge",
    "llm.layers",
    "llm.head",
    "importance",
)
"""The phases in the order of a forward pass; ``vision`` and ``llm`` are the sums of their parts."""

GROUPS = ("vision", "merge", "llm", "importance")
"""The groups of phases; each of PHASES belongs to one of them."""


@dataclass(frozen=True)
class Op:
    """Work of one operation.

    Args:
        name: what runs, e.g. ``q_proj``.
        phase: one of PHASES.
        flops: FLOPs (count), 2 per multiply-add.
        read_bytes, write_bytes: least traffic to and from device memory: every input read once,
            every output written once.
        kind: what it runs as, by which a calibration prices it, e.g. ``Product(1669, 3584, 3584)``;
            None under conventions that count work and say nothing of kernels.
        layer: 0-based layer inside its phase, if it has one.
        times: how often it runs, one run after the other; counts and bytes are those of one run.
    """

    name: str
    phase: str
    flops: Count
    read_bytes: Count
    write_bytes: Count
    kind: Kind | None
    layer: int | None = None
    times: Count = 1

    @property
    def bytes(self) -> Count:
        return self.read_bytes + self.write_bytes


def in_phase(phase: str, prefix: str) -> bool:
    """Whether ``phase`` is ``prefix`` or a part of it: ``llm.head`` is part of ``llm``."""
    return phase == prefix or phase.startswith(prefix + ".")


@dataclass(frozen=True)
class OpGraph:
    """The ops of one prefill, in order; iterating gives each as often as it runs."""

    ops: tuple[Op, ...]

    def __iter__(self) -> Iterator[Op]:
        return chain.from_iterable(repeat(op, op.times) for op in self.ops)

    def phase(self, prefix: str) -> "OpGraph":
        """The ops of a phase or of a group of phases: ``vision`` holds ``vision.tower``."""
        inside = {name for name in {op.phase for op in self.ops} if in_phase(name, prefix)}
        return OpGraph(tuple(op for op in self.ops if op.phase in inside))

    @property
    def flops(self) -> Count:
        return sum(op.times * op.flops for op in self.ops)

    @property
    def read_bytes(self) -> Count:
        return sum(op.times * op.read_bytes for op in self.ops)

    @property
    def write_bytes(self) -> Count:
        return sum(op.times * op.write_bytes for op in self.ops)
