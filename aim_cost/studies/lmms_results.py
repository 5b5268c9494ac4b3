"""The results file of an lmms-eval run (``results_*.json``) as scores.

Keys read: ``results`` -> task -> ``metric,filter``; ``higher_is_better``; ``n-samples`` and
``group_subtasks``; ``config``: ``model``, ``model_args``. As of lmms-eval 0.7.3.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from aim_cost.checks import mapping, sequence
from aim_cost.errors import SpecError
from aim_cost.schedules.schedule import PARTS, Schedule
from aim_cost.studies.own_score import Measure, OwnScore, Scale

OUR_MODEL, OUR_FRAMES = "aim_llava_onevision", 32
"""The class of ``aim_runtime.lmms_eval``, and the frames that it takes without ``max_frames``."""

_FRAME_KEYS = ("max_frames_num", "max_frames", "max_num_frames", "num_frames", "frames")
_CHECKPOINT_KEYS = ("pretrained", "model", "model_version", "path")
_OTHER_WEIGHTS = ("peft", "delta", "adapter", "lora", "lora_path")
_POINTS = ("mme_perception_score", "mme_cognition_score", "coco_CIDEr")
"""Metrics whose numbers are no part of 100, whatever their size."""
_ERRORS = {"wer", "cer", "mae", "mse", "rmse", "ppl", "perplexity"}
_RIGHT_ANSWERS = {"acc", "accuracy", "exact_match"}
_FIX = "Give the results file of lmms-eval itself."


def looks_like_lmms(data: object) -> bool:
    """Whether ``data`` has the two keys of such a file."""
    return isinstance(data, dict) and "results" in data and "config" in data


def lmms_scores(data: Mapping[str, Any], source: str) -> list[OwnScore]:
    """One score a task, metric and filter; standard errors and other figures are none.

    Raises: SpecError.
    """
    config = _mapping(data, "config", source)
    arguments = _arguments(config, source)
    schedule, frames = _schedule(arguments), _frames(arguments, source)
    harness = config.get("model")
    if frames is None and harness == OUR_MODEL:
        frames = OUR_FRAMES
    measured = list(_measured(data, source))
    if not measured:
        raise SpecError(
            f"{source}: results",
            expected="a score per task, keys such as 'videomme_perception_score,none'",
            got=", ".join(_mapping(data, "results", source)) or "no task",
            fix="Let the run finish; --predict_only has no scores.",
        )
    model, scores = _model(arguments, source), []
    for task, measure, value in measured:
        questions, of_questions = _questions(data, task, source)
        no_part = measure.metric in _POINTS or not 0 <= value <= 100
        scores.append(
            OwnScore(
                where=f"{source}: results.{task}.{measure.metric},{measure.filter}",
                source=source,
                schedule=schedule,
                task=task,
                value=value,
                scale=Scale.POINTS if no_part else None,
                measure=measure,
                lower_is_better=_lower_is_better(measure.metric, _directions(data, task, source)),
                frames=frames,
                model=model,
                harness=str(harness) if harness else None,
                questions=questions,
                of_questions=of_questions,
            )
        )
    return scores


def _measured(data: Mapping[str, Any], source: str) -> Iterator[tuple[str, Measure, float]]:
    """The numbers of each task; where the file lists its metrics by direction, those alone."""
    for task, figures in _mapping(data, "results", source).items():
        directions = _directions(data, task, source)
        for name, value in mapping(figures, f"{source}: results.{task}", SpecError).items():
            metric, comma, chosen = name.partition(",")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (comma and is_number) or "_stderr" in metric:
                continue
            if not directions or metric in directions:
                yield task, Measure(metric.strip(), chosen), float(value)


def _directions(data: Mapping[str, Any], task: str, source: str) -> Mapping[str, Any]:
    key = "higher_is_better"
    return _mapping(_mapping(data, key, source), task, f"{source}: {key}")


def _lower_is_better(metric: str, directions: Mapping[str, Any]) -> bool | None:
    """Whether lower is better, by the file or the metric's name; None where they disagree."""
    said, name = directions.get(metric), metric.strip().lower()
    if not isinstance(said, bool):
        return name in _ERRORS
    if (said and name in _ERRORS) or (not said and name in _RIGHT_ANSWERS):
        return None
    return not said


def _questions(data: Mapping[str, Any], task: str, source: str) -> tuple[int | None, int | None]:
    """Questions asked of a task or a group of tasks, and those that it has; None if unknown."""
    counts = _mapping(data, "n-samples", source)
    listed = _mapping(data, "group_subtasks", source).get(task)
    subtasks = sequence(listed or [task], f"{source}: group_subtasks.{task}", SpecError)
    names = [name for name in subtasks if isinstance(name, str)]
    where = f"{source}: n-samples"
    each = [_mapping(counts, name, where) for name in names]
    sums = []
    for key in ("effective", "original"):
        numbers = [one.get(key) for one in each]
        whole = all(type(number) is int and number > 0 for number in numbers)
        sums.append(sum(numbers) if numbers and whole else None)  # type: ignore[arg-type]
    return sums[0], sums[1]


def _mapping(tree: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """A mapping below ``key``; an empty one where there is none."""
    value = tree.get(key)
    return {} if value is None else mapping(value, f"{where}: {key}", SpecError)


def _arguments(config: Mapping[str, Any], where: str) -> dict[str, str]:
    """``model_args`` as names and values; commas inside a value stay."""
    given = config.get("model_args")
    if isinstance(given, dict):
        return {str(key).replace("-", "_"): str(value) for key, value in given.items()}
    if not isinstance(given, str):
        raise SpecError(
            f"{where}: config.model_args",
            expected="the arguments of the model, which say the schedule",
            got=given,
            fix=_FIX,
        )
    parts = [part.partition("=") for part in re.split(r",(?=[\w-]+=)", given) if part]
    pairs = [(name.strip().replace("-", "_"), value.strip("\"' ")) for name, _, value in parts]
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SpecError(
            f"{where}: config.model_args", expected=f"{twice[0]} once", got=given, fix=_FIX
        )
    return dict(pairs)


def _schedule(arguments: Mapping[str, str]) -> Schedule:
    """The schedule that the options say; without any of them nothing was reduced."""
    given = {name: arguments[name] for name in ("schedule", *PARTS) if arguments.get(name)}
    return Schedule.from_options(given, "model_args.{}")


def _frames(arguments: Mapping[str, str], where: str) -> int | None:
    key = next((key for key in _FRAME_KEYS if key in arguments), None)
    if key is None:
        return None
    text = arguments[key]
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text):
        return int(text)
    raise SpecError(
        f"{where}: config.model_args.{key}", expected="a number of frames", got=text, fix=_FIX
    )


def _model(arguments: Mapping[str, str], where: str) -> str:
    """The checkpoint that answered. Raises: SpecError where the file does not say it."""
    name = next((arguments[key] for key in _CHECKPOINT_KEYS if arguments.get(key)), None)
    if name is None:
        raise SpecError(
            f"{where}: config.model_args",
            expected="pretrained=, the checkpoint that was asked",
            got=", ".join(arguments) or "no arguments",
            fix="Run lmms-eval with pretrained=, or give the scores as CSV.",
        )
    changed = [f"{key}={arguments[key]}" for key in _OTHER_WEIGHTS if arguments.get(key)]
    return " with ".join([name, *changed])
