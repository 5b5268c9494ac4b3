"""Distinct: the ops of a run, each once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aim_cost.ops.op import Op
from aim_cost.timing.form import Index

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True)
class Distinct:
    """Ops without the repeats of one and the same, of which a tower of many segments is full.

    Args: ops, each once; places, [N], of each op of the whole run among them.
    """

    ops: tuple[Op, ...]
    places: Index

    @classmethod
    def of(cls, ops: Sequence[Op]) -> "Distinct":
        found = {id(op): op for op in ops}
        place = {key: place for place, key in enumerate(found)}
        return cls(tuple(found.values()), np.array([place[id(op)] for op in ops], dtype=np.int64))

    def each(self, values: NDArray[Value]) -> NDArray[Value]:
        """The values of all ops, [N, ...], from those of ``ops``, [len(ops), ...]."""
        return values[self.places]
