"""Case: one kernel to time, and the data it works on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aim_cost.ops.kind import (
    CausalAttention,
    Elementwise,
    EncoderAttention,
    FusedImportance,
    Product,
)
from aim_cost.render import Row
from aim_cost.timing.fit.table import size_columns

_ALIGNED = 128  # elements: every view starts at a line of the cache
_SLACK = 16 * _ALIGNED  # more than the views of any kernel need to begin at a line
_TILE = 2**24  # elements drawn at random; more of them repeat these

Work = Callable[[], object]


class Pool:
    """Random data that cases share: a cold part for weights, a warm part for activations.

    Weights come from memory, as those of a layer do that ran a whole model ago; activations have
    just been written by the kernel before.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, cold: int, warm: int) -> None:
        self.device, self.dtype = device, dtype
        self._cold, self._warm = (_random(n + _SLACK, device, dtype) for n in (cold, warm))
        self._cold_at = self._warm_at = 0

    def start(self) -> None:
        """Begin another kernel: its activations may overwrite those of the last one."""
        self._warm_at = 0

    def weights(self, *shape: int) -> Tensor:
        """The next stretch of the cold part: each call gives other memory until it wraps."""
        size = math.prod(shape)
        if self._cold_at + size > len(self._cold):
            self._cold_at = 0
        view = self._cold[self._cold_at : self._cold_at + size].view(shape)
        self._cold_at += _aligned(size)
        return view

    def activations(self, *shape: int) -> Tensor:
        """A stretch of the warm part that was just written, next to the others of this kernel."""
        size = math.prod(shape)
        view = self._warm[self._warm_at : self._warm_at + size].view(shape)
        self._warm_at += _aligned(size)
        return view.neg_()

    def free_scratch(self, elements: int) -> None:
        """Leave the allocator as a layer leaves it: so much memory was just written and freed.

        A CPU's allocator hands large free blocks back to the system, and whoever writes next pays
        for the pages; a GPU's keeps them.
        """
        if self.device.type == "cpu":
            scratch = [
                torch.empty(elements, dtype=self.dtype, device="cpu").zero_() for _ in range(2)
            ]
            scratch.clear()


@dataclass(frozen=True)
class Stream:
    """Kernels bound by memory: the kind, the least bytes of their op, and how often they run."""

    kind: Elementwise
    bytes: int
    parts: int


Sized = Product | CausalAttention | EncoderAttention | FusedImportance


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Args:
        kind: what runs, with the sizes that its time depends on.
        flops, moved_bytes: of one run, to foresee how long it takes.
        weights, activations: at least the elements that it takes from either part of a Pool.
        scratch: elements of the widest activation of the layer around it.
        make: takes inputs from a pool and returns the kernel to time.
    """

    kind: Sized | Stream
    flops: float
    moved_bytes: float
    weights: int
    activations: int
    scratch: int
    make: Callable[[Pool], Work]

    @property
    def table(self) -> str:
        """The table that the row is of, as ``table_name`` takes it."""
        return "elementwise" if isinstance(self.kind, Stream) else self.kind.label

    def to_row(self, time_s: float, repeats: int) -> Row:
        """The row of the table; ``time_s`` is the median of ``repeats`` runs."""
        time = {"latency_ms": time_s * 1e3, "repeats": repeats}
        if isinstance(self.kind, Stream):
            stream = self.kind
            return {
                "kind": stream.kind.value,
                "bytes": stream.bytes,
                "parts": stream.parts,
                **time,
            }
        return {**size_columns(self.kind), **time}


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _random(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    tile = torch.randn(min(size, _TILE), device=device, dtype=dtype)
    return tile.repeat(-(-size // len(tile)))
