"""Accuracy under schedules, with intervals, against no reduction and against chance."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
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
from aim_runtime.answers.interval import Interval, paired_difference, share_of
from aim_runtime.errors import MeasurementError
from aim_runtime.reduction.chance import drawing

Answers = Callable[[Schedule], tuple[Tensor, float]]
"""Runs an exam under a schedule: bool [n], whether each answer is right; seconds a prompt."""

ALL = "all"
"""The kind of a line over questions of every kind."""


@dataclass(frozen=True)
class AtBudget:
    """A method and the budget that it was scaled to.

    Args:
        method: its name, with the parameters that were given.
        equal: what the budget is of, a name of ``aim_cost.studies.budget.KINDS``.
        budget: the share of the visual tokens whose keeping before the LLM costs as much.
        used: of the budget.
    """

    method: str
    equal: str
    budget: float
    used: float


@dataclass(frozen=True)
class Asked:
    """A schedule to measure.

    Args:
        at: the method and the budget that it stands for, if any.
        random, uniform: random and uniform selection at that budget.
    """

    schedule: Schedule
    at: AtBudget | None = None
    random: Schedule | None = None
    uniform: Schedule | None = None


@dataclass(frozen=True)
class Accuracy:
    """Right answers to questions of one kind under one schedule.

    Args:
        kind: of the questions; ALL for all of them.
        draws: runs that this is the mean of; one where chance decides nothing.
        llm_flops: of one prompt, with scoring; total_flops: of everything; convention executed.
        time_s: of one prompt, vision apart: processor time of a run of the exam.
        share: of right answers over ``n`` questions, with Wilson's interval.
        difference: to no reduction on the same questions; random_difference: to the mean of
            ``random_draws`` runs of the same schedule with all choices at random; paired. Both are
            None where nothing is chosen.
        at: the method and the budget that the schedule stands for, if any. Then in place of
            ``random_difference``:
        to_random, to_uniform: paired differences to random and uniform selection at that budget.
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
    at: AtBudget | None = None
    to_random: Interval | None = None
    to_uniform: Interval | None = None

    def to_row(self) -> Row:
        """One flat row; what a method at a budget alone has is missing where there is none."""
        prune, at = self.schedule.prune, self.at
        row: Row = {
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
            **_columns("difference", self.difference),
            **_columns("random_difference", self.random_difference),
            "random_draws": self.random_draws,
        }
        if at is None:
            return row
        return row | {
            **asdict(at),
            **_columns("to_random", self.to_random),
            **_columns("to_uniform", self.to_uniform),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Accuracy":
        """The inverse of ``to_row``. Raises: KeyError for another row."""

        def interval(value: str, name: str) -> Interval:
            return Interval(row[value], row[f"{name}_low"], row[f"{name}_high"])

        def difference(name: str) -> Interval | None:
            return None if row.get(name) is None else interval(name, name)

        at = None
        if row.get("method") is not None:
            at = AtBudget(row["method"], row["equal"], row["budget"], row["used"])
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
            random_difference=difference("random_difference"),
            random_draws=row.get("random_draws"),  # rows of before lack it
            at=at,
            to_random=difference("to_random"),
            to_uniform=difference("to_uniform"),
        )

    def is_of(self, questions: int, draws: int) -> bool:
        """Whether a run of so many questions and draws of chance gives this line."""
        own = draws if is_random(self.schedule) else 1
        drawn = self.random_difference is not None or self.to_random is not None
        twin = draws if drawn else None
        return (self.n, self.draws, self.random_draws) == (questions, own, twin)


def _columns(name: str, found: Interval | None) -> Row:
    """Columns of a row for a difference, None where there is none."""
    return {
        name: found.value if found else None,
        f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
    }


def measure_accuracy(
    answers: Answers,
    kinds: Sequence[str],
    schedules: Sequence[Asked],
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

    def answered(schedule: Schedule) -> tuple[Tensor, float]:
        """The share of draws that got each question right, and seconds a prompt."""
        if schedule not in known:
            known[schedule] = _run(answers, schedule, draws)
        return known[schedule]

    def other(schedule: Schedule | None, own: Schedule) -> Tensor | None:
        """What ``own`` is compared with."""
        return None if schedule in (None, own) else answered(schedule)[0]

    whole_lines = [line for line in done if line.kind == ALL]
    finished = {(line.schedule, line.at) for line in whole_lines if line.is_of(len(kinds), draws)}
    lines = [line for line in done if (line.schedule, line.at) in finished]
    todo = [one for one in schedules if (one.schedule, one.at) not in finished]
    for asked in track(todo, "accuracy", console=console(error=True), transient=True):
        schedule = asked.schedule
        right, time_s = answered(schedule)
        baseline = answered(Schedule())[0]
        chance = other(at_random(schedule) if asked.at is None else None, schedule)
        random, uniform = (other(one, schedule) for one in (asked.random, asked.uniform))
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
                    share=share_of(right[inside]),
                    n=int(inside.sum()),
                    difference=paired_difference(right[inside], baseline[inside]),
                    random_difference=_difference(right, chance, inside),
                    random_draws=draws if chance is not None or random is not None else None,
                    at=asked.at,
                    to_random=_difference(right, random, inside),
                    to_uniform=_difference(right, uniform, inside),
                )
            )
        keep(lines)
    return lines


def _difference(right: Tensor, other: Tensor | None, inside: Tensor) -> Interval | None:
    """Of the questions ``inside``; None where there is no other."""
    return None if other is None else paired_difference(right[inside], other[inside])


def _run(answers: Answers, schedule: Schedule, draws: int) -> tuple[Tensor, float]:
    chances = range(draws) if is_random(schedule) else (None,)
    results, seconds = [], []
    for number in chances:
        with nullcontext() if number is None else drawing(number):
            right, time_s = answers(schedule)
        results.append(right.float())
        seconds.append(time_s)
    return torch.stack(results).mean(dim=0), sum(seconds) / len(seconds)


def is_random(schedule: Schedule) -> bool:
    """Whether ``schedule`` draws random numbers."""
    merge, prune, select = schedule.merge, schedule.prune, schedule.select
    return "random" in (
        merge and merge.by,
        prune and prune.importance,
        select and select.by,
    )


def at_random(schedule: Schedule) -> Schedule | None:
    """The same counts and positions, all chosen at random; None where nothing is chosen."""
    if schedule == Schedule():
        return None
    return replace(
        schedule,
        merge=schedule.merge and replace(schedule.merge, by="random"),
        prune=schedule.prune and replace(schedule.prune, importance="random"),
        select=schedule.select and replace(schedule.select, by="random"),
    )


def _flops(spec: ModelSpec, workload: Workload, schedule: Schedule) -> tuple[int, int]:
    """FLOPs of the LLM with scoring, and of everything."""
    anywhere = load_hardware("cpu-generic")  # FLOPs do not depend on it
    priced = Case(spec, workload, anywhere, Execution(dtype="float32")).price(schedule)
    return priced.phase("llm").flops + priced.phase("importance").flops, priced.flops


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
