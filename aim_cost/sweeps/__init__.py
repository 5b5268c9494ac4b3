"""Many schedules at once: the same numbers as ``Case.price``, a million rows a second."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import pandas as pd

from aim_cost.case import Case
from aim_cost.errors import SpecError
from aim_cost.sweeps.chunk import chunk
from aim_cost.sweeps.grid import Grid, pairs, schedule, video_frames

_Value = TypeVar("_Value")

__all__ = ["Grid", "all_rows", "chunk", "chunks", "pairs", "schedule", "sweep"]


def chunks(grid: Grid, *, times: bool = True) -> Iterator[pd.DataFrame]:
    """The rows of a sweep, chunk by chunk: memory stays flat however many there are."""
    return (chunk(grid, index, times=times) for index in range(grid.chunks))


def all_rows(grid: Grid, *, times: bool = True) -> pd.DataFrame:
    """All rows of a grid, about 150 bytes each. ``times=False``: counts alone, faster.

    Raises: SpecError, ScheduleError or ProfileError, as ``Case.price`` would.
    """
    return pd.concat(chunks(grid, times=times), ignore_index=True)


def sweep(
    case: Case,
    *,
    merge: Iterable[float] = (1.0,),
    prune: Iterable[tuple[int, int] | None] = (None,),
    frames: Iterable[int] | None = None,
    text_tokens: Iterable[int] | None = None,
    times: bool = True,
) -> pd.DataFrame:
    """Price every combination of the values given, each as ``Case.price`` would.

    Args:
        case: a video; what is not varied is its own.
        merge: retention ratios; 1 merges nothing.
        prune: (l1, l2) of linear pruning, see ``pairs``; None prunes nothing.
        frames, text_tokens: of the workload; by default those of ``case``.
        times: False for counts alone, which are faster.
    Returns: a row for each combination, the last axis fastest: columns in SI units, named as in
        ``Estimate.to_row``.
    Raises: SpecError, ScheduleError or ProfileError, as ``Case.price`` would; SpecError for a
        workload that is no video.
    """
    own_frames, own_text = video_frames(case), case.workload.text_tokens
    grid = Grid(
        models=(case.model,),
        hardware=(case.device,),
        executions=(case.execution,),
        frames=(own_frames,) if frames is None else _axis(frames, "frames"),
        text_tokens=(own_text,) if text_tokens is None else _axis(text_tokens, "text_tokens"),
        retentions=_axis(merge, "merge"),
        prunes=_axis(prune, "prune"),
        batch=case.workload.batch,
        calibration=case.calibration,
    )
    return all_rows(grid, times=times)


def _axis(values: Iterable[_Value], name: str) -> tuple[_Value, ...]:
    if isinstance(values, Iterable):
        return tuple(values)
    raise SpecError(f"sweep.{name}", expected="a list", got=values, fix=f"Write {name}=[{values}].")
