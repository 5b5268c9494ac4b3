"""KernelModel: the fitted time of one kind of kernel on one device, with its band."""

from dataclasses import dataclass

import numpy as np

from aim_cost.timing.form import Array, Ceilings, Form, Index, Mask
from aim_cost.timing.surface import Surface, follow_law


@dataclass(frozen=True)
class Band:
    """How far measured times lay from held-out predictions: the middle 90 %.

    Args: time_s, predicted times in ascending order; low, high: the log ratio of measured to
    predicted time that 5 % of the held-out rows around that time fell below, or rose above.
    """

    time_s: Array
    low: Array
    high: Array

    def around(self, time_s: Array) -> tuple[Array, Array]:
        """The low and the high time, in seconds, around predicted times."""
        place, known = np.log(time_s), np.log(self.time_s)
        low = np.minimum(np.interp(place, known, self.low), 0.0)
        high = np.maximum(np.interp(place, known, self.high), 0.0)
        return time_s * np.exp(low), time_s * np.exp(high)


@dataclass(frozen=True)
class KernelTimes:
    """Times of kernels in seconds, [N] each; ``extrapolated`` where a size was never measured."""

    time_s: Array
    low_s: Array
    high_s: Array
    extrapolated: Mask

    def at(self, places: Index) -> "KernelTimes":
        """The times at ``places``, [M], of these."""
        return KernelTimes(
            self.time_s[places], self.low_s[places], self.high_s[places], self.extrapolated[places]
        )


@dataclass(frozen=True)
class KernelModel:
    """A law, its fitted parameters, the correction on a grid, and what they were fitted from.

    Args: sizes, the smallest and the largest measured value of each of ``form.dims``.
    """

    form: Form
    parameters: Array
    surface: Surface
    sizes: tuple[tuple[float, float], ...]
    band: Band

    def time_s(self, ceilings: Ceilings, dims: tuple[Array, ...]) -> Array:
        """Seconds of each kernel; never falls along the first of the sizes.

        Shapes: dims, one array [N] of floats for each of ``form.dims``.
        """
        others = np.stack(dims[1:])
        which: Index = np.zeros(others.shape[1], dtype=np.int64)
        if (others == others[:, :1]).all():  # as in sweeps, where a sort would take most time
            others = others[:, :1]
        else:
            others, which = np.unique(others, axis=1, return_inverse=True)
        rest = tuple(others)
        knots = self.surface.knots[0]
        law, ends, below, share = follow_law(
            self.form, self.parameters, ceilings, knots, dims, rest, which.ravel()
        )
        one = np.ones(len(rest[0]))
        ratio = self.surface.at_knots(self.form.coordinates((one, *rest)))
        corrected = np.maximum.accumulate(ends * np.exp(ratio), axis=0)
        column = which.ravel()
        low, high = corrected[below, column], corrected[below + 1, column]
        first = np.log2(dims[0])
        # Beyond the knots the law goes on, shifted to meet the last corrected end.
        beyond = np.where(
            first > knots[-1],
            corrected[-1, column] * law / ends[-1, column],
            corrected[0, column] * law / ends[0, column],
        )
        inside = (first >= knots[0]) & (first <= knots[-1])
        return np.where(inside, low + (high - low) * share, beyond)

    def times(self, ceilings: Ceilings, dims: tuple[Array, ...]) -> KernelTimes:
        """Seconds with the band, and whether a size lies outside what was measured."""
        time_s = self.time_s(ceilings, dims)
        low_s, high_s = self.band.around(time_s)
        outside = np.zeros(len(time_s), dtype=bool)
        for size, (least, most) in zip(dims, self.sizes, strict=True):
            outside |= (size < least) | (size > most)
        return KernelTimes(time_s, low_s, high_s, outside)
