"""Evidence of a schedule's accuracy: a row's own score, or a score between two rows."""

from dataclasses import astuple, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from aim_cost.conventions.executed import build_executed
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.checkpoints import is_checkpoint_of

BASES = ("row", "interpolated", "none")
"""The score of the schedule itself; a score between those of two rows; no evidence."""


@dataclass(frozen=True)
class Knobs:
    """The numbers that AIM's schedules vary. Without pruning l1 and l2 lie after the last layer.

    ``tokens``: of a frame after merging.
    """

    frames: int
    tokens: int
    l1: int
    l2: int

    @classmethod
    def of(cls, schedule: Schedule, model: ModelSpec, frames: int) -> "Knobs | None":
        """The knobs; None for a schedule that has others: a ranking, a selection, the tower."""
        merge, prune = schedule.merge, schedule.prune
        if any((schedule.select, schedule.vision_merge, schedule.sample)):
            return None
        counts: tuple[int, ...] = (model.frame_tokens,)
        if merge is not None:
            counts = merge.token_counts(model.frame_tokens)
            plain = Merge(tokens_per_frame=counts[-1])
            same_kind = (merge.by, merge.positions) == (plain.by, plain.positions)
            if not same_kind or counts != plain.token_counts(model.frame_tokens):
                return None
        if prune is None:
            layers = model.text.num_hidden_layers
            return cls(frames, counts[-1], layers, layers + 1)
        if prune.linear is None or prune != Prune(linear=prune.linear):
            return None
        return cls(frames, counts[-1], *prune.linear)

    def varied(self, other: "Knobs") -> int:
        """How many of the stages differ: frames, merging, pruning."""
        pruning = (self.l1, self.l2) != (other.l1, other.l2)
        return (self.frames != other.frames) + (self.tokens != other.tokens) + pruning


def known_rows(
    accuracy: pd.DataFrame,
    benchmark: str,
    model: ModelSpec,
    text_tokens: int,
    frames: int,
) -> pd.DataFrame:
    """The rows of ``accuracy`` that bear on AIM's schedules of ``model``, with knobs and FLOPs.

    Rows without frames stand for ``frames``. Adds ``knobs`` and ``llm_flops`` (executed).
    """
    rows = []
    for row in accuracy[accuracy["benchmark"] == benchmark].to_dict("records"):
        if pd.isna(row["schedule"]) or not is_of(row["model"], model):
            continue
        schedule = Schedule.parse(row["schedule"], row["source"])
        count = frames if pd.isna(row["frames"]) else int(row["frames"])
        knobs = Knobs.of(schedule, model, count)
        if knobs is not None:
            workload = Workload(text_tokens, frames=count)
            trace = schedule.resolve(model, workload)
            graph = build_executed(model, workload, trace, Execution())
            rows.append(row | {"knobs": knobs, "llm_flops": graph.phase("llm").flops})
    return pd.DataFrame(rows)


def is_of(name: str | None, model: ModelSpec) -> bool:
    """Whether a row of accuracy is of ``model``; one without a name is taken on trust."""
    return name is None or pd.isna(name) or is_checkpoint_of(name, model)


def expect(rows: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """The expected difference of each candidate, and the rows it comes from.

    Between two rows of one source that differ in one stage alone (frames, merging or pruning), a
    candidate whose frames, tokens, l1, l2 and LLM FLOPs all lie between theirs gets the difference
    that lies between, linear in LLM FLOPs. Of several such pairs the one nearest in FLOPs counts.
    Nothing is extrapolated.
    Args: rows, of ``known_rows``; candidates with frames, tokens, l1, l2 and llm.flops.
    Returns: [candidates] with columns difference (points, NaN without evidence), basis (one of
    BASES), first and second (places in ``rows``, -1 for none).
    """
    size = len(candidates)
    knobs = candidates[["frames", "tokens", "l1", "l2"]].to_numpy(dtype=np.int64)
    flops = candidates["llm.flops"].to_numpy(dtype=float)
    found: dict[str, Any] = {
        "difference": np.full(size, np.nan),
        "basis": np.full(size, "none", dtype=object),
        "first": np.full(size, -1),
        "second": np.full(size, -1),
    }
    gap = np.full(size, np.inf)
    records = rows.to_dict("records")
    for (i, one), (j, two) in combinations(enumerate(records), 2):
        if one["source"] != two["source"] or one["knobs"].varied(two["knobs"]) != 1:
            continue
        between = two["llm_flops"] - one["llm_flops"]
        if between == 0:
            continue
        ends = np.array([astuple(one["knobs"]), astuple(two["knobs"])])
        share = (flops - one["llm_flops"]) / between
        inside = ((knobs >= ends.min(axis=0)) & (knobs <= ends.max(axis=0))).all(axis=1)
        inside &= (share >= 0) & (share <= 1) & (abs(between) < gap)
        gap[inside] = abs(between)
        points = one["difference"] + share * (two["difference"] - one["difference"])
        found["difference"][inside] = points[inside]
        found["basis"][inside] = "interpolated"
        found["first"][inside], found["second"][inside] = i, j
    for i, row in enumerate(records):
        same = (knobs == astuple(row["knobs"])).all(axis=1) & (found["basis"] != "row")
        found["difference"][same] = row["difference"]
        found["basis"][same] = "row"
        found["first"][same], found["second"][same] = i, -1
    return pd.DataFrame(found, index=candidates.index)
