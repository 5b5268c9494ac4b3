"""Segment: how a run of ops moves the clocks of host and device, for many sizes at once.

A kernel ends when the one before it has ended and it has run, but not before the host has started
it (``aim_cost.timing.prefill_time``). Written with maximum for addition and addition for
multiplication, that is linear; so any run of ops is three numbers, however many ops it has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aim_cost.ops.op import Op
from aim_cost.sweeps.closed_forms import Expression, whole_numbers
from aim_cost.sweeps.grid import Counts
from aim_cost.timing.form import Array, Mask
from aim_cost.timing.op_time import kind_of
from aim_cost.timing.prefill_time import CalibratedTime, RooflineTime, TimeModel
from aim_cost.timing.time_source import TimeSource


@dataclass(frozen=True)
class OpPrices:
    """A time model op by op, for counts that are arrays: seconds on the device and on the host."""

    device_s: Callable[[Op], Array]
    host_s: Callable[[Op], Array | float]
    source: TimeSource

    @classmethod
    def of(cls, times: TimeModel) -> "OpPrices":
        """The time model of ``Case.price``, split into parts."""
        if isinstance(times, CalibratedTime):
            model = times.model
            return cls(
                lambda op: np.asarray(model.time(op).time_s),
                lambda op: model.host_s([op])[0],
                times.source,
            )
        assert isinstance(times, RooflineTime)
        flops_per_s, bytes_per_s = times.roofline.flops_per_s, times.roofline.bytes_per_s
        return cls(
            lambda op: np.maximum(op.flops / flops_per_s, op.bytes / bytes_per_s),
            lambda op: 0.0,
            times.source,
        )


@dataclass(frozen=True)
class Clocks:
    """When the host has started, and the device has run, all ops so far; seconds, [N] each."""

    host_s: Array
    device_s: Array

    @classmethod
    def zero(cls, rows: int) -> "Clocks":
        return cls(np.zeros(rows), np.zeros(rows))


@dataclass(frozen=True)
class Segment:
    """A run of ops of many sizes.

    Args: busy_s, the sum of their device times; wake_s, when the last ends after the host began on
    the first, on a device that was idle; host_s, what the host needs for all of them; [sizes] each.
    """

    busy_s: Array
    wake_s: Array
    host_s: Array

    def after(self, clocks: Clocks, size: Counts) -> Clocks:
        """The clocks when each row has run the ops of its size, [N]."""
        wake_s = self.wake_s.take(size)
        wake_s += clocks.host_s
        device_s = self.busy_s.take(size)
        device_s += clocks.device_s
        np.maximum(device_s, wake_s, out=device_s)
        host_s = self.host_s.take(size)
        host_s += clocks.host_s
        return Clocks(host_s, device_s)

    def where(self, chosen: Mask, clocks: Clocks, size: Counts) -> Clocks:
        """The same for the rows that are ``chosen``; nothing runs in the others."""
        return self.after(clocks, size * chosen)

    @classmethod
    def of(
        cls, ops: Sequence[Op], symbol: Expression, sizes: Counts, prices: OpPrices
    ) -> "Segment":
        """Ops whose counts are expressions in one symbol, for ``sizes`` of it."""
        sized = _sized({_work(op): op for op in ops}, symbol, sizes)
        priced = {
            work: (op.times, prices.device_s(op), prices.host_s(op)) for work, op in sized.items()
        }
        busy_s, wake_s, host_s = (np.zeros(len(sizes)) for _ in range(3))
        for op in ops:
            times, spent_s, started_s = priced[_work(op)]
            first_s = host_s + started_s
            host_s = host_s + times * started_s
            busy_s = busy_s + times * spent_s
            wake_s = np.maximum(wake_s + times * spent_s, first_s + (times - 1) * spent_s)
            wake_s = np.maximum(wake_s, host_s)
        return cls(busy_s, wake_s, host_s)

    @classmethod
    def by_count(
        cls, ops: Sequence[Op], symbol: Expression, most: int, prices: OpPrices
    ) -> "Segment":
        """The same for sizes 0 to ``most``. No op has size 0: there the clocks stand still.

        For the device is never before the host.
        """
        found = cls.of(ops, symbol, np.arange(1, most + 1), prices)
        return cls(*(np.append(0.0, part) for part in (found.busy_s, found.wake_s, found.host_s)))


def _work(op: Op) -> tuple[Any, ...]:
    """What decides the time of an op; most layers repeat those of the first."""
    return (op.kind, op.flops, op.bytes, op.times)


def _sized(ops: dict[Any, Op], symbol: Expression, sizes: Counts) -> dict[Any, Op]:
    """The ops with arrays for counts, or ints for those that do not depend on the symbol."""
    counts = [
        [op.flops, op.read_bytes, op.write_bytes, op.times, *kind_of(op).sizes]
        for op in ops.values()
    ]
    is_fixed = all(isinstance(count, int) for row in counts for count in row)
    found = counts if is_fixed else whole_numbers((symbol,), counts)(sizes)
    return {
        work: replace(
            op,
            flops=flops,
            read_bytes=reads,
            write_bytes=writes,
            times=times,
            kind=kind_of(op).resized(tuple(own)),
        )
        for (work, op), (flops, reads, writes, times, *own) in zip(ops.items(), found, strict=True)
    }
