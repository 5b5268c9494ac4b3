"""Cited: a row of accuracy that an answer rests on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aim_cost.render import Row
from aim_cost.schedules.schedule import Schedule


@dataclass(frozen=True)
class Cited:
    """A score with where it comes from; the fields are columns of a table of accuracy.

    ``aim_cost.papers.accuracy.COLUMNS`` says what they hold. None for what is unknown.
    """

    evidence: str
    source: str
    method: str | None
    schedule: Schedule
    frames: int | None
    accuracy: float
    baseline: float
    difference: float
    note: str | None
    scale: str | None
    lower_is_better: bool | None
    n: int | None

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> "Cited":
        """A row of a table whose schedule and difference are known."""

        def known(name: str) -> Any:
            value = row.get(name)
            return None if pd.isna(value) else value

        frames, questions = known("frames"), known("n")
        return cls(
            evidence=row["evidence"],
            source=row["source"],
            method=known("method"),
            schedule=Schedule.parse(row["schedule"], row["source"]),
            frames=None if frames is None else int(frames),
            accuracy=row["accuracy"],
            baseline=row["baseline"],
            difference=row["difference"],
            note=known("note"),
            scale=known("scale"),
            lower_is_better=known("lower_is_better"),
            n=None if questions is None else int(questions),
        )

    def to_row(self) -> Row:
        """What a plan writes of it."""
        return {
            "method": self.method,
            "schedule": self.schedule.label(),
            "frames": self.frames,
            "accuracy": self.accuracy,
            "baseline": self.baseline,
            "difference": self.difference,
            "note": self.note,
            "scale": self.scale,
            "lower_is_better": self.lower_is_better,
            "n": self.n,
        }
