"""Form: a physical law of kernel time with free parameters, before any correction."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aim_cost.devices.hardware import HardwareProfile
from aim_cost.errors import ProfileError
from aim_cost.units import dtype_bytes

Array: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Ceilings:
    """What a law takes from the datasheet.

    Args: dense FLOP/s, memory elements/s, multiprocessors; clock_hz, the boost clock, not a number
        where the profile has none.
    """

    flops_per_s: float
    elements_per_s: float
    multiprocessors: int
    clock_hz: float = float("nan")

    @classmethod
    def of(cls, hardware: HardwareProfile, dtype: str) -> "Ceilings":
        """The ceilings of a device. Raises ProfileError where the profile lacks one of them."""
        multiprocessors = hardware.peak.multiprocessors
        if multiprocessors is None:
            raise ProfileError(
                f"{hardware.name}: peak.multiprocessors",
                expected="a count, which the time models need",
                got="none",
                fix="Add it to the profile, or predict with --execution ideal.",
            )
        return cls(
            hardware.peak_flops_per_s(dtype),
            hardware.memory_bandwidth_bytes_per_s / dtype_bytes(dtype),
            int(multiprocessors.value),
            float(hardware.peak.boost_clock_hz.value) if hardware.peak.boost_clock_hz else math.nan,
        )


@dataclass(frozen=True)
class Parameter:
    """One free number of a law.

    Args: name; start, where the fit begins (log of a ratio or of microseconds, or a logit); weight,
    how strongly the fit is held there, in rows of unit squared error.
    """

    name: str
    start: float
    weight: float = 1.0


@dataclass(frozen=True)
class Form:
    """A law and the coordinates of its correction surface.

    Args:
        op: gemm, causal_attention, encoder_attention or fused_importance.
        dims: names of the sizes. Along the first, ``law`` never falls.
        parameters: what the fit is free to choose.
        law: (parameter values, ceilings, sizes as arrays) -> seconds.
        roofline: (ceilings, sizes) -> datasheet lower bound in seconds.
        coordinates: sizes -> log2 coordinates of the surface beside that of the first size.
        knots: where the surface is fitted: log2 of the first size, then the other coordinates.
    """

    op: str
    dims: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    law: Callable[[Array, Ceilings, tuple[Array, ...]], Array]
    roofline: Callable[[Ceilings, tuple[Array, ...]], Array]
    coordinates: Callable[[tuple[Array, ...]], tuple[Array, ...]]
    knots: tuple[tuple[float, ...], ...]

    @property
    def start(self) -> Array:
        return np.array([p.start for p in self.parameters])


def sigmoid(value: float) -> float:
    """Map any real number into (0, 1): a share that a fit can move freely."""
    return float(1 / (1 + np.exp(-value)))


def soft_max(first: Array, second: Array, sharpness: float) -> Array:
    """A smooth maximum, never below either: 1 gives their sum, infinity the maximum."""
    high, low = np.maximum(first, second), np.minimum(first, second)
    smooth: Array = high * (1 + (low / high) ** sharpness) ** (1 / sharpness)
    return smooth


def waves(tiles: Array, even: Array, quantised: float) -> Array:
    """Rounds of work on all multiprocessors: partly whole rounds, partly an even spread."""
    rounds: Array = quantised * np.ceil(tiles) + (1 - quantised) * np.maximum(1.0, even)
    return rounds
