"""Accuracy under schedules, with intervals, against no reduction and against chance."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from aim_cost.case import Case
from aim_cost.checks import whole
from aim_cost.devices.hardware import load_hardware
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.render import Row, console
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.reduction.chance import drawing

Answers = Callable[[Schedule], Tensor]
"""Runs an exam under a schedule: bool [n], whether each answer is right."""

_Z = 1.96  # of a 95 % interval
ALL = "all"
"""The kind of a line over questions of every kind."""


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def leaves_out_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Accuracy:
    """Right answers to questions of one kind under one schedule.

    Args:
        kind: of the questions; ALL for all of them.
        draws: runs that this is the mean of; one where chance decides nothing.
        llm_flops: of one prompt, with scoring; total_flops: of everything; convention executed.
        time_s: of one prompt, measured, vision apart.
        share: of right answers over ``n`` questions, with Wilson's interval.
        difference: to no reduction on the same questions; random_difference: to the mean of
            ``random_draws`` runs of the same schedule with merging and pruning at random; paired.
            Both are None where nothing is chosen.
    """

    kind: str
    schedule: Schedule
    draws: int
    llm_flops: int
    total_flops: int
    time_s: float
    share: Interval
    n: int
    difference: Interval
    random_difference: Interval | None
    random_draws: int | None

    def to_row(self) -> Row:
        """One flat row."""
        prune, random = self.schedule.prune, self.random_difference
        return {
            "kind": self.kind,
            "schedule": self.schedule.label(),
            "importance": prune.importance if prune else None,
            "draws": self.draws,
            "llm_flops": self.llm_flops,
            "total_flops": self.total_flops,
            "time_s": self.time_s,
            "accuracy": self.share.value,
            "ci_low": self.share.low,
            "ci_high": self.share.high,
            "n": self.n,
            "difference": self.difference.value,
            "difference_low": self.difference.low,
            "difference_high": self.difference.high,
            "random_difference": random.value if random else None,
            "random_difference_low": random.low if random else None,
            "random_difference_high": random.high if random else None,
            "random_draws": self.random_draws,
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Accuracy":
        """The inverse of ``to_row``. Raises: KeyError for another row."""

        def interval(value: str, name: str) -> Interval:
            return Interval(row[value], row[f"{name}_low"], row[f"{name}_high"])

        random = None
        if row["random_difference"] is not None:
            random = interval("random_difference", "random_difference")
        return cls(
            kind=row["kind"],
            schedule=Schedule.read(row["schedule"]),
            draws=row["draws"],
            llm_flops=row["llm_flops"],
            total_flops=row["total_flops"],
            time_s=row["time_s"],
            share=interval("accuracy", "ci"),
            n=row["n"],
            difference=interval("difference", "difference"),
            random_difference=interval("random_difference", "random_difference")
            if random
            else None,
            random_draws=row.get("random_draws"),  # rows of before lack it
        )

    def is_of(self, questions: int, draws: int) -> bool:
        """Whether a run of so many questions and draws of chance gives this line."""
        own = draws if is_random(self.schedule) else 1
        twin = None if self.random_difference is None else draws
        return (self.n, self.draws, self.random_draws) == (questions, own, twin)


def measure_accuracy(
    answers: Answers,
    kinds: Sequence[str],
    schedules: Sequence[Schedule],
    spec: ModelSpec,
    workload: Workload,
    *,
    draws: int = 3,
    done: Sequence[Accuracy] = (),
    keep: Callable[[Sequence[Accuracy]], None] = lambda lines: None,
) -> list[Accuracy]:
    """For each schedule a line of all questions and one of each kind.

    Random schedules are the mean of ``draws``.

    Args:
        answers: runs the exam; kinds: of its questions.
        spec, workload: of the model and of one prompt, for the FLOPs.
        done: lines of an earlier run; those of as many questions and draws are kept as they are.
        keep: called with all lines after each schedule.
    Ctrl-C ends it; what was kept is kept. Raises: MeasurementError.
    """
    whole(draws, "draws", MeasurementError)
    known: dict[Schedule, tuple[Tensor, float]] = {}

    def shares(schedule: Schedule) -> tuple[Tensor, float]:
        """The share of draws that got each question right, and seconds a prompt."""
        if schedule not in known:
            known[schedule] = _run(answers, schedule, draws)
        return known[schedule]

    whole_lines = [line for line in done if line.kind == ALL]
    finished = {line.schedule for line in whole_lines if line.is_of(len(kinds), draws)}
    lines = [line for line in done if line.schedule in finished]
    todo = [schedule for schedule in schedules if schedule not in finished]
    for schedule in track(todo, "accuracy", console=console(error=True), transient=True):
        right, time_s = shares(schedule)
        baseline = shares(Schedule())[0]
        twin = at_random(schedule)
        chance = shares(twin)[0] if twin not in (None, schedule) else None
        llm_flops, total_flops = _flops(spec, workload, schedule)
        for kind in (ALL, *dict.fromkeys(kinds)):
            inside = torch.tensor([kind in (ALL, name) for name in kinds])
            lines.append(
                Accuracy(
                    kind=kind,
                    schedule=schedule,
                    draws=draws if is_random(schedule) else 1,
                    llm_flops=llm_flops,
                    total_flops=total_flops,
                    time_s=time_s,
                    share=_share(right[inside]),
                    n=int(inside.sum()),
                    difference=_paired(right[inside], baseline[inside]),
                    random_difference=None
                    if chance is None
                    else _paired(right[inside], chance[inside]),
                    random_draws=None if chance is None else draws,
                )
            )
        keep(lines)
    return lines


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
    """Whether ``schedule`` draws random numbers."""
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


def _flops(spec: ModelSpec, workload: Workload, schedule: Schedule) -> tuple[int, int]:
    """FLOPs of the LLM with scoring, and of everything."""
    anywhere = load_hardware("cpu-generic")  # FLOPs do not depend on it
    priced = Case(spec, workload, anywhere, Execution(dtype="float32")).price(schedule)
    return priced.phase("llm").flops + priced.phase("importance").flops, priced.flops


def _share(right: Tensor) -> Interval:
    """A share with Wilson's interval, which holds near 0 and 1 too."""
    n, p = len(right), float(right.mean())
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Interval(p, middle - half, middle + half)


def _paired(right: Tensor, other: Tensor) -> Interval:
    """The mean difference on the same questions, and its interval."""
    gaps = right - other
    mean = float(gaps.mean())
    half = _Z * float(gaps.std(correction=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 1.0
    return Interval(mean, mean - half, mean + half)


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
