"""OwnScore: one score that a user measured, and the table of accuracy of several of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from aim_cost.errors import SpecError
from aim_cost.papers.accuracy import COLUMNS, method_of
from aim_cost.schedules.schedule import Schedule


class Scale(StrEnum):
    """The unit of a score."""

    SHARE = "share"
    PERCENT = "percent"
    POINTS = "points"


@dataclass(frozen=True)
class Measure:
    """What lmms-eval measured in a task: a metric, of the answers that a filter extracted."""

    metric: str
    filter: str


@dataclass(frozen=True)
class OwnScore:
    """A score as its file has it.

    Args:
        where: file and row, for errors; source, the file.
        task: the benchmark; measure, what was measured of it, None for a file of one's own.
        value, low, high: the score and its interval, in ``scale``; None where the number alone
            says whether it is a share or percent.
        lower_is_better: an error rate, say; None where the file contradicts the metric's name.
        model: as the file names it, None where it names none; harness, the class of lmms-eval that
            asked it, whose prompts differ from those of others.
        frames: of each video, None where the file does not say it.
        budget: what the method was given, for people; None where the schedule alone says it.
        questions: that the score is over; of_questions, those of the benchmark.
    """

    where: str
    source: str
    schedule: Schedule
    task: str
    value: float
    scale: Scale | None = None
    measure: Measure | None = None
    low: float | None = None
    high: float | None = None
    lower_is_better: bool | None = False
    frames: int | None = None
    model: str | None = None
    method: str | None = None
    budget: str | None = None
    harness: str | None = None
    questions: int | None = None
    of_questions: int | None = None


@dataclass(frozen=True)
class OwnScores:
    """Scores of several files, by the names of their benchmarks."""

    by_benchmark: dict[str, tuple[OwnScore, ...]]

    @classmethod
    def of(cls, scores: Iterable[OwnScore]) -> "OwnScores":
        """A task with one measure is called as it is, others ``task/metric`` each.

        Where one of its metrics has several filters they are ``task/metric,filter``. What is there
        is seen over all files.
        """
        scores = tuple(scores)
        measures: dict[str, dict[Measure, None]] = {}
        for score in scores:
            if score.measure is not None:
                measures.setdefault(score.task, {})[score.measure] = None
        found: dict[str, list[OwnScore]] = {}
        for score in scores:
            name = _benchmark(score, list(measures.get(score.task, ())))
            found.setdefault(name, []).append(score)
        return cls({name: tuple(rows) for name, rows in found.items()})

    def table(self, benchmark: str, frames: int | None = None) -> pd.DataFrame:
        """The scores of one benchmark in COLUMNS of ``papers.accuracy``, evidence ``own``.

        One unreduced score of a model and harness is the baseline of the others: that of ``frames``
        if there is one, else the first. The scale is decided over all scores.
        Args: frames, those that scores without frames stand for. Raises: SpecError.
        """
        scores = self.by_benchmark[benchmark]
        scale = _scales(scores, benchmark)
        rows, baselines, seen = [], _baselines(scores, frames), set()
        for score, its_scale in zip(scores, scale, strict=True):
            if score.lower_is_better is None:
                raise SpecError(
                    f"{score.source}: higher_is_better",
                    expected=f"the direction of {benchmark} that its metric's name says",
                    got="the other one",
                    fix="Correct the file, or give the scores as CSV.",
                )
            baseline = baselines.get((score.model, score.harness))
            if baseline is None:
                raise _no_baseline(score, benchmark)
            method = (score.method, score.budget)
            key = (score.schedule, score.frames, score.model, score.harness, *method)
            if key in seen:
                raise SpecError(
                    score.where,
                    expected="one score a schedule, benchmark, number of frames and model",
                    got=f"a second one of {score.schedule.label()}, {benchmark}",
                    fix="Average seeds and repeats first.",
                )
            seen.add(key)
            unreduced = _shown(baseline.value, scale[scores.index(baseline)])
            row = _row(score, its_scale, benchmark, baseline, unreduced)
            rows.append(row | {"note": _note(score, baseline, frames)})
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        return table.astype({"frames": "Int64", "n": "Int64"})


def _benchmark(score: OwnScore, measures: Sequence[Measure]) -> str:
    if score.measure is None or len(measures) == 1:
        return score.task
    metrics = [measure.metric for measure in measures]
    if len(set(metrics)) == len(metrics):
        return f"{score.task}/{score.measure.metric}"
    return f"{score.task}/{score.measure.metric},{score.measure.filter}"


def _baselines(
    scores: Sequence[OwnScore], frames: int | None
) -> dict[tuple[str | None, str | None], OwnScore]:
    found: dict[tuple[str | None, str | None], OwnScore] = {}
    for score in sorted(scores, key=lambda score: score.frames != frames):
        if score.schedule == Schedule():
            found.setdefault((score.model, score.harness), score)
    return found


def _no_baseline(score: OwnScore, benchmark: str) -> SpecError:
    of = [score.model, score.harness and f"asked by {score.harness}"]
    told = ", ".join(part for part in of if part)
    return SpecError(
        score.source,
        expected=f"an unreduced score of {benchmark}{f' of {told}' if told else ''}, schedule none",
        got=f"reduced ones alone, e.g. {score.schedule.label()}",
        fix="Add the score of the same model without reduction, asked in the same way.",
    )


def _scales(scores: Sequence[OwnScore], benchmark: str) -> list[Scale]:
    """The scale of each score: its own, or one that fits all numbers without a scale.

    Numbers up to 1 are shares, numbers from 0 to 100 percent; both at once could be either.
    """
    given = {score.scale for score in scores}
    if Scale.POINTS in given and given - {Scale.POINTS, None}:
        other = next(score for score in scores if score.scale in (Scale.SHARE, Scale.PERCENT))
        raise SpecError(
            other.where,
            expected=f"{benchmark} in points, as in other rows",
            got=str(other.scale),
            fix="Keep one scale a benchmark.",
        )
    open_scores = [score for score in scores if score.scale is None and score.value != 0]
    if Scale.POINTS in given:
        common = Scale.POINTS
    elif all(score.value <= 1 for score in open_scores):
        common = Scale.SHARE
    else:
        common = Scale.PERCENT
        if small := [score for score in open_scores if score.value <= 1]:
            large = next(score for score in open_scores if score.value > 1)
            raise SpecError(
                small[0].where,
                expected=f"one scale for {benchmark}, shares or percent",
                got=f"{small[0].value:g}, and {large.value:g} in {large.where}",
                fix="Write both on one scale, or in a CSV or JSON file say it in a column scale.",
            )
    return [score.scale or common for score in scores]


def _shown(value: float, scale: Scale) -> float:
    """Percent of a share; other scores are shown as they are."""
    return 100 * value if scale is Scale.SHARE else value


def _row(
    score: OwnScore, scale: Scale, benchmark: str, baseline: OwnScore, unreduced: float
) -> dict[str, Any]:
    accuracy = _shown(score.value, scale)
    gain = accuracy - unreduced
    ends = {"ci_low": score.low, "ci_high": score.high}
    return {
        "evidence": "own",
        "source": score.source,
        "model": score.model,
        "method": score.method or method_of(score.schedule),
        "frames": score.frames,
        "schedule": score.schedule.label(),
        "budget": score.budget or score.schedule.label(),
        "benchmark": benchmark,
        "accuracy": accuracy,
        "baseline": unreduced,
        "difference": -gain if score.lower_is_better else gain,
        "scale": str(Scale.POINTS if scale is Scale.POINTS else Scale.PERCENT),
        "lower_is_better": score.lower_is_better,
        **{name: None if end is None else _shown(end, scale) for name, end in ends.items()},
        "n": score.questions,
    }


def _note(score: OwnScore, baseline: OwnScore, frames: int | None) -> str:
    """What a score is over, where the file leaves it open, and how its baseline differs."""
    parts = []
    if score.questions is not None:
        of = score.of_questions
        part = f" of {of:,}" if of is not None and of != score.questions else ""
        parts.append(f"over {score.questions:,}{part} questions")
    if score.frames is None and frames is not None:
        parts.append(f"taken as of {frames} frames, which its file does not say")
    if score.questions is not None and baseline.questions not in (None, score.questions):
        parts.append(f"the baseline over {baseline.questions:,}")
    if baseline.frames not in (None, score.frames):
        parts.append(f"the baseline of {baseline.frames} frames")
    return ", ".join(parts)
