"""Timeline: when each frame of a video is shown, and which frames lie evenly in time."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Timeline:
    """When each frame is shown.

    Args:
        stamps: of each frame in the order shown, in units of ``unit``; None where the file says
            none.
        unit: seconds.
    """

    stamps: tuple[int | None, ...]
    unit: Fraction

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def times_s(self) -> tuple[float, ...] | None:
        """Seconds from the first frame to each; None where they are unknown or run backwards."""
        stamps = [stamp for stamp in self.stamps if stamp is not None]
        in_order = all(before <= after for before, after in pairwise(stamps))
        if len(stamps) < len(self.stamps) or not in_order:
            return None
        return tuple(float((stamp - stamps[0]) * self.unit) for stamp in stamps)

    def spread(self, n: int) -> Sequence[int]:
        """The numbers of ``n`` frames at even distances in time, the first and the last among them.

        Of each time the frame nearest to it, of two equally near the one of even number. All
        frames where there are no more than ``n``. Without times the distances are even in number.
        """
        count = len(self)
        if n >= count:
            return range(count)
        times = self.times_s
        if times is None or times[0] == times[-1]:
            return [int(index) for index in np.linspace(0, count - 1, n).round()]
        distinct, first = np.unique(times, return_index=True)
        wanted = np.linspace(0, times[-1], n)
        places = np.interp(wanted, distinct, np.arange(len(distinct)))
        nearest = places.round(6).round().astype(int)  # a tie stays one despite the last digits
        return [int(first[place]) for place in nearest]
