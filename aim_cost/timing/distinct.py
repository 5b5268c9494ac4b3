"""Distinct: the ops of a run, those that do the same work once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aim_cost.ops.count import Count
from aim_cost.ops.kind import Kind
from aim_cost.ops.op import Op
from aim_cost.timing.form import Index

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Distinct:
    """Ops without those that repeat the work of another, as most layers and segments do.

    Args: ops, one of each phase, kind and counts; places, [N], where the work of each run of the
    prefill is among them.
    """

    ops: tuple[Op, ...]
    places: Index

    @classmethod
    def of(cls, ops: Sequence[Op]) -> "Distinct":
        numbers: dict[tuple[str, Kind | None, Count, Count], int] = {}
        places = np.array(
            [
                numbers.setdefault((op.phase, op.kind, op.flops, op.bytes), len(numbers))
                for op in ops
            ],
            dtype=np.int64,
        )
        _, first = np.unique(places, return_index=True)
        times = np.array([op.times for op in ops], dtype=np.int64)
        return cls(tuple(ops[place] for place in first), places.repeat(times))

    def each(self, values: NDArray[Value]) -> NDArray[Value]:
        """The values of all runs, [N, ...], from those of ``ops``, [len(ops), ...]."""
        return values[self.places]
