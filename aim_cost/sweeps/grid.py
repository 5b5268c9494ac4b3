"""Grid: the axes that a sweep varies. Each combination of their values is a row."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aim_cost.case import Case
from aim_cost.checks import sequence, whole
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, VisualInput, Workload
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.timing import Calibration

Counts: TypeAlias = NDArray[np.int64]

CHUNK_ROWS = 65_536
_SHARED = ("batch", "calibration")  # shared by all rows, so they are no axes


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, from the slowest to the fastest; plain data that can be pickled.

    Args:
        retentions: of merging; 1 merges nothing.
        prunes: (l1, l2) of linear pruning, or None for none.
        batch: prompts, of all rows.
        calibration: of all rows; by default that of each device or the nearest one.
    Raises: SpecError or ScheduleError, as ``estimate`` would for one of the rows; SpecError for
        fused scoring, which has no closed form here.
    """

    models: tuple[ModelSpec, ...]
    hardware: tuple[HardwareProfile, ...]
    executions: tuple[Execution, ...]
    frames: tuple[int, ...]
    text_tokens: tuple[int, ...]
    retentions: tuple[float, ...] = (1.0,)
    prunes: tuple[tuple[int, int] | None, ...] = (None,)
    batch: int = 1
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        for name in [field.name for field in fields(self) if field.name not in _SHARED]:
            axis = sequence(getattr(self, name), f"sweep.{name}", SpecError)
            object.__setattr__(self, name, axis)
            if not axis:
                raise SpecError(
                    f"sweep.{name}", expected="one value at least", got="none", fix="Give one."
                )
        for execution in self.executions:
            if execution.scoring != "torch":
                raise SpecError(
                    "scoring",
                    expected="torch, which sweeps know",
                    got=execution.scoring,
                    fix="Price each schedule by itself: Case.price, aim-cost predict.",
                )
        for tokens in self.text_tokens:
            whole(tokens, "text_tokens", SpecError)
        for model in self.models:
            for frames in self.frames:
                self.visual_input(model, frames)
            for retention in self.retentions:
                self.merge_tokens(model, retention)
            for prune in self.prunes:
                if prune is not None:
                    Prune(linear=prune).ratio_after_layer(model.text.num_hidden_layers)

    def visual_input(self, model: ModelSpec, frames: int) -> VisualInput:
        """Visual tokens of one prompt before merging. Raises SpecError."""
        return Workload(1, frames=frames, batch=self.batch).visual_input(model)

    def merge_tokens(self, model: ModelSpec, retention: float) -> tuple[int, ...]:
        """Tokens of a frame before merging and after each pass. Raises ScheduleError."""
        tokens = self.visual_input(model, self.frames[0]).group_tokens
        return Merge(retention=retention).token_counts(tokens)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Values of the axes inside a setting: frames, text tokens, retentions, prunes."""
        axes = (self.frames, self.text_tokens, self.retentions, self.prunes)
        return tuple(map(len, axes))  # type: ignore[return-value]

    @property
    def setting_rows(self) -> int:
        """Rows of one setting."""
        return prod(self.shape)

    @property
    def setting_chunks(self) -> int:
        """Chunks of one setting; only the last one has fewer than CHUNK_ROWS rows."""
        return -(-self.setting_rows // CHUNK_ROWS)

    @property
    def settings(self) -> int:
        return len(self.models) * len(self.hardware) * len(self.executions)

    @property
    def rows(self) -> int:
        return self.settings * self.setting_rows

    @property
    def chunks(self) -> int:
        return self.settings * self.setting_chunks

    def case(self, setting: int) -> Case:
        """The first case of a setting: executions turn fastest, models slowest."""
        rest, execution = divmod(setting, len(self.executions))
        model, hardware = divmod(rest, len(self.hardware))
        return Case(
            self.models[model],
            Workload(self.text_tokens[0], frames=self.frames[0], batch=self.batch),
            self.hardware[hardware],
            self.executions[execution],
            self.calibration,
        )

    def places(self, chunk: int) -> tuple[int, tuple[Counts, ...]]:
        """The setting of a chunk, and the place of each of its rows on the four axes of ``shape``.

        Raises: SpecError where there is no such chunk.
        """
        if not 0 <= chunk < self.chunks:
            raise SpecError(
                "chunk",
                expected=f"0 to {self.chunks - 1}, the chunks of the sweep",
                got=chunk,
                fix="Correct the index.",
            )
        setting, part = divmod(chunk, self.setting_chunks)
        stop = min((part + 1) * CHUNK_ROWS, self.setting_rows)
        return setting, np.unravel_index(np.arange(part * CHUNK_ROWS, stop), self.shape)


def video_frames(case: Case) -> int:
    """The frames of a case that a sweep can vary. Raises: SpecError for any other workload."""
    workload = case.workload
    if workload.frames is None or workload.frame_size is not None:
        size = f", frame_size {workload.frame_size}" if workload.frame_size else ""
        raise SpecError(
            "workload",
            expected="a video, its frames at the size that the tower takes by itself",
            got=f"{workload.label()}{size}",
            fix="Give frames alone, or price each schedule by itself: Case.price.",
        )
    return workload.frames


def schedule(retention: float, prune: tuple[int, int] | None) -> Schedule:
    """The schedule that a row of a sweep is the price of. Raises: ScheduleError."""
    return Schedule(
        Merge(retention=retention) if retention != 1 else None,
        Prune(linear=prune) if prune is not None else None,
    )


def pairs(starts: Iterable[int | None], ends: Iterable[int]) -> tuple[tuple[int, int] | None, ...]:
    """All (l1, l2) with l1 < l2; None among the starts stands for no pruning.

    Raises: ScheduleError where nothing is left.
    """
    starts, ends = tuple(starts), tuple(ends)
    found: list[tuple[int, int] | None] = [None] if None in starts else []
    found += [(l1, l2) for l1 in starts if l1 is not None for l2 in ends if l1 < l2]
    if not found:
        raise ScheduleError(
            "--l1, --l2",
            expected="a pair with l1 < l2, or none",
            got=f"l1 {starts}, l2 {ends}",
            fix="E.g. --l1 none,0:28 --l2 1:29.",
        )
    return tuple(found)
