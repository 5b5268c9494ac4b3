"""Standing: which methods are better than a baseline at the same budget, and which are worse."""

from collections.abc import Mapping
from dataclasses import dataclass

from aim_runtime.answers.interval import Interval

_ONE_SIDE = 0.025  # of 95 % intervals around 0 that would lie above it, and as many below


@dataclass(frozen=True)
class Standing:
    """Methods by their paired differences to a baseline, each at 95 %.

    Args: better, worse, open: names; open: the interval holds 0.
    """

    better: tuple[str, ...]
    worse: tuple[str, ...]
    open: tuple[str, ...]

    @classmethod
    def of(cls, differences: Mapping[str, Interval]) -> "Standing":
        """Differences by the names of the methods."""
        told = {name: one.value for name, one in differences.items() if one.leaves_out_zero()}
        return cls(
            tuple(name for name, value in told.items() if value > 0),
            tuple(name for name, value in told.items() if value < 0),
            tuple(name for name in differences if name not in told),
        )

    @property
    def compared(self) -> int:
        return len(self.better) + len(self.worse) + len(self.open)

    @property
    def better_by_chance(self) -> float:
        """How many of as many methods that choose like the baseline would count as better."""
        return _ONE_SIDE * self.compared
