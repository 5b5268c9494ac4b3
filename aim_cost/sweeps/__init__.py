"""Many schedules at once: the same numbers as ``estimate``, a million rows a second."""

from collections.abc import Iterator

import pandas as pd

from aim_cost.sweeps.chunk import chunk
from aim_cost.sweeps.grid import Grid, pairs, schedule

__all__ = ["Grid", "chunk", "chunks", "pairs", "schedule", "sweep"]


def chunks(grid: Grid, *, times: bool = True) -> Iterator[pd.DataFrame]:
    """The rows of a sweep, chunk by chunk: memory stays flat however many there are."""
    return (chunk(grid, index, times=times) for index in range(grid.chunks))


def sweep(grid: Grid, *, times: bool = True) -> pd.DataFrame:
    """All rows of a sweep, about 150 bytes each. ``times=False``: counts alone, faster.

    Raises: SpecError, ScheduleError or ProfileError, as ``estimate`` would.
    """
    return pd.concat(chunks(grid, times=times), ignore_index=True)
