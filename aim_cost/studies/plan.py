"""plan(): the schedule of merging, pruning and frames with the best expected accuracy in limits."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import pandas as pd

from aim_cost.case import Case
from aim_cost.checks import one_of
from aim_cost.errors import InfeasibleError, SpecError
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import LastLayer
from aim_cost.papers.accuracy import published_accuracy
from aim_cost.studies.candidates import (
    LIMIT_FLAGS,
    Limits,
    as_option,
    broken,
    candidates,
    first_within,
    priced,
    schedule_of,
    show_limit,
    uses,
    within,
)
from aim_cost.studies.cited import Cited
from aim_cost.studies.evidence import expect, is_of, known_rows
from aim_cost.studies.own_accuracy import read_scores
from aim_cost.studies.plan_result import Plan
from aim_cost.sweeps.grid import video_frames

_FRAME_STEP = 16


def plan(
    case: Case,
    *,
    ttft_s: float | None = None,
    flops: float | None = None,
    memory_bytes: float | None = None,
    choose_frames: bool = False,
    accuracy: pd.DataFrame | str | Path | Sequence[str | Path] | None = None,
    benchmark: str | None = None,
) -> Plan:
    """The schedule within limits with the best expected accuracy.

    Those with evidence come first, by the difference to no reduction; then those without, least
    reduction first. The device's own memory is always a limit.
    Args:
        case: a video; its frames are those of schedules without evidence.
        ttft_s, flops, memory_bytes: limits, see Limits.
        choose_frames: whether the plan may leave the frames of ``case`` for those of the evidence.
        accuracy: scores, COLUMNS of ``aim_cost.papers.accuracy``, or the paths of your own; what
            papers print by default.
        benchmark: whose scores; by default ``videomme`` or the only one that there is.
    Raises: InfeasibleError that names the limit and the nearest schedule; SpecError.
    """
    if case.execution.last_layer is not LastLayer.ALL:
        raise SpecError(
            "last_layer",
            expected="all: accuracies are known by the FLOPs of whole layers",
            got=case.execution.last_layer,
            fix="Plan with all, and price the schedule with needed afterwards.",
        )
    limits = Limits(ttft_s, flops, memory_bytes)
    if accuracy is not None and not isinstance(accuracy, pd.DataFrame):
        scores = read_scores([accuracy] if isinstance(accuracy, str | Path) else accuracy)
        name = _benchmark(benchmark, list(scores.by_benchmark))
        own = scores.table(name, video_frames(case))
        return _plan(case, limits, choose_frames, own, name)
    table = published_accuracy() if accuracy is None else accuracy
    name = _benchmark(benchmark, list(dict.fromkeys(table["benchmark"])))
    return _plan(case, limits, choose_frames, table, name)


def _benchmark(given: str | None, known: list[str]) -> str:
    if given is not None:
        return one_of(given, known, "--benchmark", SpecError)
    default = [name for name in ("videomme", "all") if name in known]
    if default or len(known) == 1:
        return (default or known)[0]
    raise SpecError(
        "--benchmark",
        expected="one of the benchmarks of --accuracy",
        got="none chosen",
        fix=f"Known: {', '.join(known)}.",
    )


def _plan(
    case: Case, limits: Limits, choose_frames: bool, accuracy: pd.DataFrame, benchmark: str
) -> Plan:
    capacity = float(case.device.memory_bytes)
    limits = replace(limits, memory_bytes=min(limits.memory_bytes or capacity, capacity))
    frames, text_tokens = video_frames(case), case.workload.text_tokens
    known = known_rows(accuracy, benchmark, case.model, text_tokens, frames)
    if known.empty and "own" in set(accuracy["evidence"]):
        others = _other_models(accuracy, case.model)
        raise SpecError(
            "--accuracy",
            expected=f"scores of {case.model.name}",
            got=f"those of {', '.join(others)}" if others else "schedules that are not AIM's",
            fix="Name that model with --model. Scores of the same weights under another name: give "
            "them as CSV."
            if others
            else "Give scores of merging and pruning.",
        )
    ranked = _ranked(case, known, frames, choose_frames)
    fitting = within(ranked, limits)
    place = first_within(case, fitting, limits)
    if place is None:
        raise _infeasible(case, limits, ranked)
    chosen = fitting.iloc[place]
    by_share = fitting.sort_values("share", ascending=False, kind="stable")
    least = by_share.iloc[first_within(case, by_share, limits) or 0]
    rank = int(fitting.index[place])  # ranked counts its rows from 0
    return Plan(
        case=case,
        limits=limits,
        result=priced(case, chosen),
        benchmark=benchmark,
        difference=None if pd.isna(chosen["difference"]) else float(chosen["difference"]),
        basis=str(chosen["basis"]),
        rows=tuple(
            Cited.of(known.iloc[i].to_dict()) for i in chosen[["first", "second"]] if i >= 0
        ),
        other_models=_other_models(accuracy, case.model),
        binding=broken(case, ranked.iloc[rank - 1], limits) if rank else (),
        least_reduction=priced(case, least),
        candidates=len(ranked),
        feasible=len(fitting),
    )


def _other_models(accuracy: pd.DataFrame, model: ModelSpec) -> tuple[str, ...]:
    names = accuracy[accuracy["evidence"] == "own"]["model"].dropna().unique()
    return tuple(str(name) for name in names if not is_of(name, model))


def _ranked(case: Case, known: pd.DataFrame, frames: int, choose_frames: bool) -> pd.DataFrame:
    """All candidates with what is known of their accuracy, best first."""
    considered = {frames}
    if choose_frames and len(known):
        seen = {row.frames for row in known["knobs"]}
        considered |= {*seen, *range(min(seen), max(seen), _FRAME_STEP)}
    found = candidates(case, tuple(sorted(considered)))
    found = pd.concat([found, expect(known, found)], axis=1)
    usable = (found["basis"] != "none") | (found["frames"] == frames)
    return found[usable].sort_values(
        ["difference", "share", "ttft_s"],
        ascending=[False, False, True],
        na_position="last",
        ignore_index=True,
    )


def _infeasible(case: Case, limits: Limits, ranked: pd.DataFrame) -> InfeasibleError:
    """The error that names the binding limit, the nearest schedule, and frames that would fit."""
    given = limits.given()
    quick = ranked[["ttft_s", "total.flops"]] / [limits.ttft_s or inf, limits.flops or inf]
    most: tuple[tuple[float, str], dict[str, float], int] | None = None
    over = quick.max(axis=1).to_numpy()
    for place in over.argsort(kind="stable"):
        if most is not None and over[place] > most[0][0]:
            break  # memory can only make it worse
        used = uses(case, ranked.iloc[place])
        excess = max((used[name] / limit, name) for name, limit in given.items())
        if most is None or excess < most[0]:
            most = excess, used, place
    assert most is not None
    (_, name), used, place = most
    row = ranked.iloc[place]
    if used["memory_bytes"] > case.device.memory_bytes:
        fix = "Take a device with more memory."
    else:
        raised = [as_option(over, used[over]) for over in given if used[over] > given[over]]
        fix = f"It fits {' and '.join(raised)}."
    return InfeasibleError(
        LIMIT_FLAGS[name],
        expected=f"a schedule within {show_limit(name, given[name])}",
        got=f"none; nearest: {schedule_of(row).label()} at {int(row['frames'])} frames, "
        f"{show_limit(name, used[name])}",
        fix=f"{fix}{_with_fewer_frames(case, limits, int(row['frames']))}",
    )


def _with_fewer_frames(case: Case, limits: Limits, frames: int) -> str:
    halves = [frames >> times for times in range(1, frames.bit_length())]
    if not halves:
        return ""
    priced = candidates(case, tuple(halves)).sort_values("share", ascending=False, kind="stable")
    for fewer in halves:
        found = priced[priced["frames"] == fewer]
        if broken(case, found.iloc[-1], replace(limits, ttft_s=None, flops=None)):
            continue  # not even the most reduced one fits into memory
        fitting = within(found, limits)
        place = first_within(case, fitting, limits)
        if place is not None:
            label = schedule_of(fitting.iloc[place]).label()
            return f" Or take --frames {fewer}: least reduced within the limits is {label}."
    return ""
