"""plan(): the schedule of merging, pruning and frames with the best expected accuracy in limits."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

import pandas as pd

from aim_cost.case import Estimate
from aim_cost.errors import InfeasibleError, SpecError
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.candidates import (
    Limits,
    Task,
    broken,
    candidates,
    first_within,
    schedule_of,
    uses,
    within,
)
from aim_cost.studies.evidence import expect, known_rows
from aim_cost.units import show, show_time

_FRAME_STEP = 16

LIMIT_FLAGS = {"ttft_s": "--ttft-ms", "flops": "--flops-tera", "memory_bytes": "--memory-gb"}


def show_limit(name: str, value: float) -> str:
    """A limit, or what is used of it, with its unit."""
    if name == "ttft_s":
        return show_time(value)
    return show(value, "FLOPs" if name == "flops" else "B")


@dataclass(frozen=True)
class Plan:
    """The answer.

    Args:
        result, baseline: the chosen schedule's estimate, and that of no reduction, equal frames.
        benchmark: that ``difference`` is of; difference: expected, points, None without evidence.
        basis: one of ``evidence.BASES``; rows: those it rests on, none to two.
        llm_share: LLM FLOPs, of those of ``baseline``.
        binding: the limits that the candidate ranked just above breaks; none where it is the first.
        least_reduction: the schedule within the limits that keeps most LLM FLOPs, evidence or not.
        candidates, feasible: how many were priced, and how many keep the limits on time and FLOPs.
    """

    task: Task
    limits: Limits
    result: Estimate
    benchmark: str
    difference: float | None
    basis: str
    rows: tuple[dict[str, Any], ...]
    binding: tuple[str, ...]
    least_reduction: Estimate
    candidates: int
    feasible: int

    @cached_property
    def baseline(self) -> Estimate:
        frames = self.result.workload.frames
        assert frames is not None
        return self.task.price(Schedule(), frames)

    @property
    def llm_share(self) -> float:
        return self.result.phase("llm").flops / self.baseline.phase("llm").flops

    def to_row(self) -> dict[str, Any]:
        """One flat row, SI units, dots between the levels."""
        priced, keep = self.result.to_row(), self.least_reduction
        names = ("model", "hardware", "dtype", "execution", "frames", "text_tokens", "batch")
        figures = ("ttft_s", "ttft_low_s", "ttft_high_s", "total.flops", "llm.flops")
        memory = ("peak_memory_bytes", "kv_cache_bytes", "source")
        cited = ("method", "schedule", "frames", "accuracy", "baseline", "difference", "note")
        row = {"kind": "plan", "schedule": priced["schedule"]}
        row |= {"schedule_file": self.result.schedule.to_dict()}
        row |= {name: priced[name] for name in (*names, *figures, *memory)}
        row |= {"llm_share": self.llm_share, "baseline.ttft_s": self.baseline.ttft_s}
        row |= {
            "accuracy.benchmark": self.benchmark,
            "accuracy.difference": self.difference,
            "accuracy.evidence": self.rows[0]["evidence"] if self.rows else "no evidence",
            "accuracy.basis": self.basis if self.rows else None,
            "accuracy.source": self.rows[0]["source"] if self.rows else None,
            "accuracy.rows": [
                {name: None if pd.isna(r[name]) else r[name] for name in cited} for r in self.rows
            ],
        }
        row |= {f"limits.{name}": value for name, value in vars(self.limits).items()}
        return row | {
            "binding_limit": list(self.binding),
            "least_reduction.schedule": keep.schedule.label(),
            "least_reduction.frames": keep.workload.frames,
            "least_reduction.ttft_s": keep.ttft_s,
            "candidates": self.candidates,
            "feasible": self.feasible,
        }


def plan(task: Task, limits: Limits, accuracy: pd.DataFrame, benchmark: str) -> Plan:
    """The schedule within ``limits`` with the best expected accuracy.

    Those with evidence come first, by the difference to no reduction; then those without, least
    reduction first. Where the plan may choose frames, it leaves REFERENCE_FRAMES only for schedules
    with evidence. The device's own memory is always a limit.
    Args: accuracy, COLUMNS of ``aim_cost.papers.accuracy``, rows of one kind of evidence.
    Raises: InfeasibleError that names the limit and the nearest schedule; SpecError.
    """
    capacity = float(task.hardware.memory_bytes)
    limits = replace(limits, memory_bytes=min(limits.memory_bytes or capacity, capacity))
    known = known_rows(accuracy, benchmark, task.model, task.text_tokens, task.reference_frames)
    if known.empty and "own" in set(accuracy["evidence"]):
        raise SpecError(
            "--accuracy",
            expected=f"scores of {task.model.name}",
            got=", ".join(accuracy["model"].dropna().unique()),
            fix="Name that model with --model.",
        )
    ranked = _ranked(task, known)
    fitting = within(ranked, limits)
    place = first_within(task, fitting, limits)
    if place is None:
        raise _infeasible(task, limits, ranked)
    chosen = fitting.iloc[place]
    by_share = fitting.sort_values("share", ascending=False, kind="stable")
    least = by_share.iloc[first_within(task, by_share, limits) or 0]
    rank = int(fitting.index[place])  # ranked counts its rows from 0
    return Plan(
        task=task,
        limits=limits,
        result=task.price(schedule_of(chosen), int(chosen["frames"])),
        benchmark=benchmark,
        difference=None if pd.isna(chosen["difference"]) else float(chosen["difference"]),
        basis=str(chosen["basis"]),
        rows=tuple(known.iloc[i].to_dict() for i in chosen[["first", "second"]] if i >= 0),
        binding=broken(task, ranked.iloc[rank - 1], limits) if rank else (),
        least_reduction=task.price(schedule_of(least), int(least["frames"])),
        candidates=len(ranked),
        feasible=len(fitting),
    )


def _ranked(task: Task, known: pd.DataFrame) -> pd.DataFrame:
    """All candidates with what is known of their accuracy, best first."""
    frames = {task.reference_frames}
    if task.frames is None and len(known):
        seen = {row.frames for row in known["knobs"]}
        frames |= {*seen, *range(min(seen), max(seen), _FRAME_STEP)}
    found = candidates(task, tuple(sorted(frames)))
    found = pd.concat([found, expect(known, found)], axis=1)
    usable = (found["basis"] != "none") | (found["frames"] == task.reference_frames)
    return found[usable].sort_values(
        ["difference", "share", "ttft_s"],
        ascending=[False, False, True],
        na_position="last",
        ignore_index=True,
    )


def _infeasible(task: Task, limits: Limits, ranked: pd.DataFrame) -> InfeasibleError:
    """Which limit binds, what comes nearest to it, and whether fewer frames would do."""
    given = limits.given()
    quick = ranked[["ttft_s", "total.flops"]] / [limits.ttft_s or inf, limits.flops or inf]
    most: tuple[tuple[float, str], dict[str, float], int] | None = None
    over = quick.max(axis=1).to_numpy()
    for place in over.argsort(kind="stable"):
        if most is not None and over[place] > most[0][0]:
            break  # memory can only make it worse
        used = uses(task, ranked.iloc[place])
        excess = max((used[name] / limit, name) for name, limit in given.items())
        if most is None or excess < most[0]:
            most = excess, used, place
    assert most is not None
    (_, name), used, place = most
    row = ranked.iloc[place]
    return InfeasibleError(
        LIMIT_FLAGS[name],
        expected=f"a schedule within {show_limit(name, given[name])}",
        got=f"none; nearest: {schedule_of(row).label()} at {int(row['frames'])} frames, "
        f"{show_limit(name, used[name])}",
        fix=f"Raise the limit to that.{_with_fewer_frames(task, limits, int(row['frames']))}",
    )


def _with_fewer_frames(task: Task, limits: Limits, frames: int) -> str:
    while frames > 1:
        frames //= 2
        found = candidates(task, (frames,)).sort_values("share", ascending=False)
        if broken(task, found.iloc[-1], replace(limits, ttft_s=None, flops=None)):
            continue  # not even the most reduced one fits into memory
        fitting = within(found, limits)
        place = first_within(task, fitting, limits)
        if place is not None:
            label = schedule_of(fitting.iloc[place]).label()
            return f" Or take --frames {frames}: least reduced within the limits is {label}."
    return ""
