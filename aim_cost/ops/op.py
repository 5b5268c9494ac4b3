"""Op: one kernel-sized piece of work. OpGraph: all of them, in the order they run."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

# An int, or a sympy expression when the graph is built from symbols (aim_cost.sweeps.symbols).
Count: TypeAlias = Any

PHASES = (
    "vision.tower",
    "vision.projector",
    "vision.pooling",
    "merge",
    "llm.layers",
    "llm.head",
    "importance",
)
"""In the order of a forward pass; ``vision`` and ``llm`` are the sums of their parts."""

GROUPS = ("vision", "merge", "llm", "importance")
"""What a prefill is made of: each of PHASES belongs to one of them."""


@dataclass(frozen=True)
class Op:
    """Work of one operation.

    Args:
        name: what runs, e.g. ``q_proj``.
        phase: one of PHASES.
        flops: FLOPs (count), 2 per multiply-add.
        read_bytes, write_bytes: least traffic to and from device memory: every input read once,
            every output written once.
        shape: the sizes a time model needs, e.g. ``{"m": 1669, "n": 3584, "k": 3584}``.
        layer: 0-based layer inside its phase, if it has one.
    """

    name: str
    phase: str
    flops: Count
    read_bytes: Count
    write_bytes: Count
    shape: dict[str, Count] = field(default_factory=dict)
    layer: int | None = None

    @property
    def bytes(self) -> Count:
        return self.read_bytes + self.write_bytes


def in_phase(phase: str, prefix: str) -> bool:
    """Whether ``phase`` is ``prefix`` or a part of it: ``llm.head`` is part of ``llm``."""
    return phase == prefix or phase.startswith(prefix + ".")


@dataclass(frozen=True)
class OpGraph:
    """The ops of one prefill, in order."""

    ops: tuple[Op, ...]

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)

    def phase(self, prefix: str) -> "OpGraph":
        """The ops of a phase or of a group of phases: ``vision`` holds ``vision.tower``."""
        return OpGraph(tuple(op for op in self.ops if in_phase(op.phase, prefix)))

    @property
    def flops(self) -> Count:
        return sum(op.flops for op in self.ops)

    @property
    def read_bytes(self) -> Count:
        return sum(op.read_bytes for op in self.ops)

    @property
    def write_bytes(self) -> Count:
        return sum(op.write_bytes for op in self.ops)
