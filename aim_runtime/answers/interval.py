"""Interval: a share of right answers, or a difference of two, with its 95 % interval."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, and its 95 % interval."""

    value: float
    low: float
    high: float

    def leaves_out_zero(self, among: int = 1) -> bool:
        """Whether 0 lies outside; of ``among`` such differences, all together at 95 % (Bonferroni).

        For a difference, whose interval is symmetric and normal.
        """
        wider = NormalDist().inv_cdf(1 - 0.025 / among) / NormalDist().inv_cdf(0.975)
        return abs(self.value) > wider * self.half

    @property
    def half(self) -> float:
        """Half its width: of a difference, what stands after its plus-minus sign."""
        return (self.high - self.low) / 2


def share_of(right: Tensor) -> Interval:
    """The mean of ``right`` [n] with Wilson's interval, which holds near 0 and 1 too."""
    n, p = len(right), float(right.mean())
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Interval(p, middle - half, middle + half)


def paired_difference(right: Tensor, other: Tensor) -> Interval:
    """The mean difference on the same questions [n], and its interval."""
    gaps = right - other
    mean = float(gaps.mean())
    half = _Z * float(gaps.std(correction=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 1.0
    return Interval(mean, mean - half, mean + half)
