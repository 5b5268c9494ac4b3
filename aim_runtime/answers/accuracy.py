"""Accuracy under schedules, with intervals, against no reduction and against chance."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from aim_cost.case import estimate
from aim_cost.checks import whole
from aim_cost.devices.hardware import load_hardware
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.render import console
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.reduction.chance import drawing

Row = dict[str, Any]
Answers = Callable[[Schedule], Tensor]
"""Runs an exam under a schedule: bool [n], whether each answer is right."""

_Z = 1.96  # of a 95 % interval
_ALL = "all"


def measure_accuracy(
    answers: Answers,
    kinds: Sequence[str],
    schedules: Sequence[Schedule],
    spec: ModelSpec,
    workload: Workload,
    *,
    draws: int = 3,
    done: Sequence[Row] = (),
    keep: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Rows of accuracy: for each schedule one of all questions and one of each kind.

    ``accuracy`` with its 95 % Wilson interval ``ci_low``, ``ci_high`` over ``n`` questions;
    ``difference`` to no reduction on the same questions, and ``random_difference`` to the same
    schedule with merging and pruning at random, each with a 95 % interval of paired differences;
    random schedules are the mean of ``draws``. ``llm_flops`` (with scoring) and ``total_flops`` of
    one prompt under the convention ``executed``; ``time_s`` of one prompt, measured, vision apart.

    Args:
        answers: runs the exam; kinds: of its questions.
        spec, workload: of the model and of one prompt, for the FLOPs.
        done: rows of an earlier run, kept as they are.
        keep: called with all rows after each schedule.
    Ctrl-C ends it; what was kept is kept. Raises: MeasurementError.
    """
    whole(draws, "draws", MeasurementError)
    known: dict[Schedule, tuple[Tensor, float]] = {}

    def shares(schedule: Schedule) -> tuple[Tensor, float]:
        """Of each question the share of draws that got it right, and seconds a prompt."""
        if schedule not in known:
            known[schedule] = _run(answers, schedule, draws)
        return known[schedule]

    rows = list(done)
    finished = {row["schedule"] for row in done}
    todo = [schedule for schedule in schedules if schedule.label() not in finished]
    for schedule in track(todo, "accuracy", console=console(error=True), transient=True):
        right, time_s = shares(schedule)
        baseline = shares(Schedule())[0]
        twin = at_random(schedule)
        chance = shares(twin)[0] if twin not in (None, schedule) else None
        facts = {
            "schedule": schedule.label(),
            "importance": schedule.prune.importance if schedule.prune else None,
            "draws": draws if is_random(schedule) else 1,
            **_flops(spec, workload, schedule),
            "time_s": time_s,
        }
        for kind in (_ALL, *dict.fromkeys(kinds)):
            inside = torch.tensor([kind in (_ALL, name) for name in kinds], device="cpu")
            rows.append(
                {
                    "kind": kind,
                    **facts,
                    **_share(right[inside]),
                    **_paired("difference", right[inside], baseline[inside]),
                    **_paired(
                        "random_difference",
                        right[inside],
                        None if chance is None else chance[inside],
                    ),
                }
            )
        keep(rows)
    return rows


def _run(answers: Answers, schedule: Schedule, draws: int) -> tuple[Tensor, float]:
    chances = range(draws) if is_random(schedule) else (None,)
    results, seconds = [], []
    for number in chances:
        start = time.perf_counter()
        with nullcontext() if number is None else drawing(number):
            results.append(answers(schedule).float())
        seconds.append(time.perf_counter() - start)
    right = torch.stack(results).mean(dim=0)
    return right, sum(seconds) / len(seconds) / len(right)


def is_random(schedule: Schedule) -> bool:
    """Whether chance decides anything under ``schedule``."""
    parts = (schedule.merge and schedule.merge.by, schedule.prune and schedule.prune.importance)
    return "random" in parts


def at_random(schedule: Schedule) -> Schedule | None:
    """The same counts and positions, all chosen at random; None where nothing is chosen."""
    if schedule == Schedule():
        return None
    return replace(
        schedule,
        merge=schedule.merge and replace(schedule.merge, by="random"),
        prune=schedule.prune and replace(schedule.prune, importance="random"),
    )


def _flops(spec: ModelSpec, workload: Workload, schedule: Schedule) -> Row:
    anywhere = load_hardware("cpu-generic")  # FLOPs do not depend on it
    priced = estimate(spec, workload, schedule, anywhere, Execution(dtype="float32"))
    llm = priced.phase("llm").flops + priced.phase("importance").flops
    return {"llm_flops": llm, "total_flops": priced.flops}


def _share(right: Tensor) -> Row:
    """A share with Wilson's interval, which holds near 0 and 1 too."""
    n, p = len(right), float(right.mean())
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return {"accuracy": p, "ci_low": middle - half, "ci_high": middle + half, "n": n}


def _paired(name: str, right: Tensor, other: Tensor | None) -> Row:
    """The mean difference on the same questions, and its interval."""
    keys = (name, f"{name}_low", f"{name}_high")
    if other is None:
        return dict.fromkeys(keys)
    gaps = right - other
    mean = float(gaps.mean())
    half = _Z * float(gaps.std(correction=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 1.0
    return dict(zip(keys, (mean, mean - half, mean + half), strict=True))


def exam_schedules() -> list[Schedule]:
    """45 schedules for a decoder of 8 layers: merging, pruning, both; AIM's scores and others."""
    kept, ours, text = " positions=kept", " score=pagerank-causal", " score=text-attention"
    merges = [
        f"merge {ratio}{words}"
        for ratio in ("0.5", "0.25", "0.125")
        for words in ("", kept, f" by=uniform{kept}", f" by=random{kept}")
    ]
    ramps = ("linear:1:3", "linear:2:4", "linear:2:6", "linear:4:6", "linear:0:4", "linear:0:8")
    prunes = [
        f"prune {ramp}{score}" for ramp in ramps for score in ("", ours, text, " score=random")
    ]
    both = [
        f"merge {ratio}{words}, prune linear:2:6{score}"
        for ratio in ("0.5", "0.25")
        for words, score in (
            ("", ""),
            (kept, ours),
            (kept, text),
            (f" by=random{kept}", " score=random"),
        )
    ]
    return list(map(Schedule.parse, ("none", *merges, *prunes, *both)))
