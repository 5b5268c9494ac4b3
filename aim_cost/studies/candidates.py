"""What a plan may choose from: schedules of merging and pruning, priced, and what limits them."""

from dataclasses import dataclass

import pandas as pd

from aim_cost.case import Estimate, estimate
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.errors import SpecError
from aim_cost.memory import prefill_memory
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.schedules.schedule import Schedule
from aim_cost.sweeps import Grid, schedule, sweep

REFERENCE_FRAMES = 32
"""Frames of AIM's tables, and of a plan that is free to choose them but knows no other data."""

_RETENTIONS = tuple(x / 64 for x in (64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 6, 4, 3, 2, 1))
_PRUNE_LENGTHS = (1, 2, 4, 8, 15)


@dataclass(frozen=True)
class Task:
    """What is planned: everything but the schedule.

    Args: frames, None where the plan may choose them.
    Raises: SpecError for a last layer that computes what is needed alone.
    """

    model: ModelSpec
    hardware: HardwareProfile
    execution: Execution
    text_tokens: int = 100
    frames: int | None = REFERENCE_FRAMES
    batch: int = 1

    def __post_init__(self) -> None:
        if self.execution.last_layer != "all":
            raise SpecError(
                "last_layer",
                expected="all: accuracies are known by the FLOPs of whole layers",
                got=self.execution.last_layer,
                fix="Plan with all, and price the schedule with needed afterwards.",
            )

    @property
    def reference_frames(self) -> int:
        return REFERENCE_FRAMES if self.frames is None else self.frames

    def workload(self, frames: int) -> Workload:
        return Workload(self.text_tokens, frames=frames, batch=self.batch)

    def price(self, chosen: Schedule, frames: int) -> Estimate:
        """The estimate of a prefill under a schedule."""
        workload = self.workload(frames)
        return estimate(self.model, workload, chosen, self.hardware, self.execution)


@dataclass(frozen=True)
class Limits:
    """What a prefill may cost; None is no limit. FLOPs as executed, all phases."""

    ttft_s: float | None = None
    flops: float | None = None
    memory_bytes: float | None = None

    def given(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def candidates(task: Task, frames: tuple[int, ...]) -> pd.DataFrame:
    """All schedules considered, priced.

    Columns: frames, retention, tokens (of a frame after merging), l1, l2 (behind the last layer
    where nothing is pruned), pruned, llm.flops, total.flops, ttft_s, share (LLM FLOPs, of those of
    no reduction and equal frames).
    Raises: SpecError or ProfileError, as ``estimate`` would.
    """
    layers, whole = task.model.text.num_hidden_layers, task.model.frame_tokens
    grid = Grid(
        models=(task.model,),
        hardware=(task.hardware,),
        executions=(task.execution,),
        frames=frames,
        text_tokens=(task.text_tokens,),
        retentions=tuple(r for r in _RETENTIONS if int(whole * r) >= 1),
        prunes=(None, *((l1, l1 + long) for l1 in range(layers) for long in _PRUNE_LENGTHS)),
        batch=task.batch,
    )
    priced = sweep(grid)
    tokens = {r: grid.merge_tokens(task.model, r)[-1] for r in grid.retentions}
    found = priced[["frames", "llm.flops", "total.flops", "ttft_s"]].copy()
    found["retention"] = priced["merge.retention"]
    found["tokens"] = found["retention"].map(tokens)
    found["pruned"] = priced["prune.l1"].notna()
    found["l1"] = priced["prune.l1"].fillna(layers).astype(int)
    found["l2"] = priced["prune.l2"].fillna(layers + 1).astype(int)
    found["share"] = found["llm.flops"] / found.groupby("frames")["llm.flops"].transform("max")
    return found


def schedule_of(row: pd.Series) -> Schedule:
    """The schedule of a row of ``candidates``."""
    pruned = (int(row["l1"]), int(row["l2"])) if row["pruned"] else None
    return schedule(float(row["retention"]), pruned)


def uses(task: Task, row: pd.Series) -> dict[str, float]:
    """What a row of ``candidates`` costs, under the names of the limits."""
    workload = task.workload(int(row["frames"]))
    trace = schedule_of(row).resolve(task.model, workload)
    peak = prefill_memory(task.model, workload, trace, task.execution).peak_bytes
    return {"ttft_s": row["ttft_s"], "flops": row["total.flops"], "memory_bytes": peak}


def broken(task: Task, row: pd.Series, limits: Limits) -> tuple[str, ...]:
    """The limits that a row of ``candidates`` breaks."""
    used = uses(task, row)
    return tuple(name for name, limit in limits.given().items() if used[name] > limit)


def within(found: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """The rows that keep the limits on time and FLOPs."""
    kept = pd.Series(True, index=found.index)
    for column, limit in (("ttft_s", limits.ttft_s), ("total.flops", limits.flops)):
        if limit is not None:
            kept &= found[column] <= limit
    return found[kept]


def first_within(task: Task, found: pd.DataFrame, limits: Limits) -> int | None:
    """The place of the first row that keeps all limits; None where none does."""
    rows = (found.iloc[place] for place in range(len(found)))
    return next((i for i, row in enumerate(rows) if not broken(task, row, limits)), None)
