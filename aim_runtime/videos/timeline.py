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
    def _known(self) -> list[int] | None:
        """The stamps, counted from the first; None where some lack, or where they run backwards."""
        stamps = [stamp for stamp in self.stamps if stamp is not None]
        in_order = all(before <= after for before, after in pairwise(stamps))
        if len(stamps) < len(self.stamps) or not in_order:
            return None
        return [stamp - stamps[0] for stamp in stamps]

    @property
    def times_s(self) -> tuple[float, ...] | None:
        """Seconds from the first frame to each; None where the file does not tell."""
        known = self._known
        return None if known is None else tuple(float(stamp * self.unit) for stamp in known)

    def spread(self, n: int) -> Sequence[int]:
        """The numbers of ``n`` frames at even distances in time, the first and the last among them.

        Of each time the frame nearest to it; all frames where there are no more than ``n``. Without
        times, and where all frames stay equally long, the distances are even in number.
        """
        count, known = len(self), self._known
        if n >= count:
            return range(count)
        if known is None or not np.diff(known, 2).any():
            return [int(index) for index in np.linspace(0, count - 1, n).round()]
        distinct, first = np.unique(known, return_index=True)
        places = np.interp(np.linspace(0, known[-1], n), distinct, np.arange(len(distinct)))
        return [int(first[place]) for place in places.round().astype(int)]
