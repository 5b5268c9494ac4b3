"""Candidates: the priced schedules that a plan chooses from, and the limits on them."""

from dataclasses import dataclass, replace
from functools import lru_cache

import pandas as pd

from aim_cost.case import Case, Estimate
from aim_cost.case.memory import prefill_memory
from aim_cost.errors import SpecError
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.schedule import Schedule
from aim_cost.sweeps import schedule, sweep
from aim_cost.units import round_up, show, show_time

LIMIT_FLAGS = {"ttft_s": "--ttft-ms", "flops": "--flops-tera", "memory_bytes": "--memory-gb"}
_PREFIXES = {"ttft_s": "m", "flops": "T", "memory_bytes": "G"}

_RETENTIONS = tuple(x / 64 for x in (64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 6, 4, 3, 2, 1))
_PRUNE_LENGTHS = (1, 2, 4, 8, 15)


@dataclass(frozen=True)
class Limits:
    """Limits on the cost of a prefill; None is no limit. FLOPs are executed ones of all phases.

    Raises: SpecError for a limit that is no number above 0.
    """

    ttft_s: float | None = None
    flops: float | None = None
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.given().items():
            if not 0 < limit < float("inf"):
                raise SpecError(
                    LIMIT_FLAGS[name], expected="a number above 0", got=limit, fix="Correct it."
                )

    def given(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def at_frames(case: Case, frames: int) -> Case:
    """The case with a video of that many frames."""
    return replace(case, workload=replace(case.workload, frames=frames))


def show_limit(name: str, value: float) -> str:
    """A limit, or what is used of it, with its unit."""
    if name == "ttft_s":
        return show_time(value)
    return show(value, "FLOPs" if name == "flops" else "B")


def as_option(name: str, value: float) -> str:
    """The option that sets a limit just above ``value``."""
    return f"{LIMIT_FLAGS[name]} {round_up(value, _PREFIXES[name])}"


def candidates(case: Case, frames: tuple[int, ...]) -> pd.DataFrame:
    """All schedules considered, priced for videos of ``frames``.

    Columns: frames, retention, tokens (of a frame after merging), l1, l2 (after the last layer
    where nothing is pruned), pruned, llm.flops, total.flops, ttft_s, share (LLM FLOPs, of those of
    no reduction and equal frames).
    Raises: SpecError or ProfileError, as ``estimate`` would.
    """
    layers, whole = case.model.text.num_hidden_layers, case.model.frame_tokens
    retentions = tuple(r for r in _RETENTIONS if int(whole * r) >= 1)
    priced = sweep(
        case,
        frames=frames,
        merge=retentions,
        prune=(None, *((l1, l1 + long) for l1 in range(layers) for long in _PRUNE_LENGTHS)),
    )
    tokens = {r: Merge(retention=r).token_counts(whole)[-1] for r in retentions}
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


def priced(case: Case, row: pd.Series) -> Estimate:
    """The estimate of a row of ``candidates``."""
    return at_frames(case, int(row["frames"])).price(schedule_of(row))


def uses(case: Case, row: pd.Series) -> dict[str, float]:
    """The cost of a row of ``candidates``, by the names of the limits."""
    peak = _peak_bytes(at_frames(case, int(row["frames"])), schedule_of(row))
    return {"ttft_s": row["ttft_s"], "flops": row["total.flops"], "memory_bytes": peak}


@lru_cache(maxsize=10_000)
def _peak_bytes(case: Case, chosen: Schedule) -> int:
    """The peak memory of a candidate; a search asks for that of many several times."""
    trace = chosen.resolve(case.model, case.workload)
    return prefill_memory(case.model, case.workload, trace, case.execution).peak_bytes


def broken(case: Case, row: pd.Series, limits: Limits) -> tuple[str, ...]:
    """The limits that a row of ``candidates`` breaks."""
    used = uses(case, row)
    return tuple(name for name, limit in limits.given().items() if used[name] > limit)


def within(found: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """The rows that keep the limits on time and FLOPs."""
    kept = pd.Series(True, index=found.index)
    for column, limit in (("ttft_s", limits.ttft_s), ("total.flops", limits.flops)):
        if limit is not None:
            kept &= found[column] <= limit
    return found[kept]


def first_within(case: Case, found: pd.DataFrame, limits: Limits) -> int | None:
    """The place of the first row that keeps all limits; None where none does."""
    rows = (found.iloc[place] for place in range(len(found)))
    return next((i for i, row in enumerate(rows) if not broken(case, row, limits)), None)
