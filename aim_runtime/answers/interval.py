"""Interval: a share of right answers, or a difference of two, with its 95 % interval."""

import math
from dataclasses import dataclass

from torch import Tensor

_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def leaves_out_zero(self) -> bool:
        return self.low > 0 or self.high < 0


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
