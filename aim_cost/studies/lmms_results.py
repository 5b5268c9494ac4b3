"""The results file of an lmms-eval run (``results_*.json``) as rows of accuracy.

Keys read: ``results`` -> task -> ``metric,filter``, ``config.model_args``, ``n-samples``.
"""

import re
from typing import Any

from aim_cost.errors import SpecError
from aim_cost.models.model import load_model_spec, preset_names
from aim_cost.schedules.schedule import PARTS, Schedule

_FRAME_KEYS = ("max_frames_num", "max_frames", "max_num_frames", "num_frames", "frames")


def looks_like_lmms(data: object) -> bool:
    """Whether ``data`` has the two keys of such a file."""
    return isinstance(data, dict) and isinstance(data.get("results"), dict) and "config" in data


def lmms_rows(data: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """One row a task; ``task/metric`` where a task has several. Raises SpecError."""
    arguments = _arguments(data["config"], where)
    shared = {
        "schedule": _schedule(arguments),
        "frames": next((arguments[key] for key in _FRAME_KEYS if key in arguments), None),
        "model": _preset(arguments.get("pretrained")),
    }
    rows = []
    for task, scores in data["results"].items():
        named = {
            metric.partition(",")[0]: value
            for metric, value in scores.items()
            if isinstance(value, int | float) and "," in metric and "_stderr" not in metric
        }
        counts = (data.get("n-samples") or {}).get(task) or {}
        for metric, value in named.items():
            name = task if len(named) == 1 else f"{task}/{metric}"
            rows.append(
                shared | {"benchmark": name, "accuracy": value, "n": counts.get("effective")}
            )
    if not rows:
        raise SpecError(
            f"{where}: results",
            expected="a score per task, keys such as 'videomme_perception_score,none'",
            got=", ".join(data["results"]) or "no task",
            fix="Let the run finish; --predict_only has no scores.",
        )
    return rows


def _arguments(config: object, where: str) -> dict[str, str]:
    """``model_args`` as names and values; commas inside a value stay."""
    given = config.get("model_args") if isinstance(config, dict) else None
    if isinstance(given, dict):
        return {str(key).replace("-", "_"): str(value) for key, value in given.items()}
    if not isinstance(given, str):
        raise SpecError(
            f"{where}: config.model_args",
            expected="the arguments of the model, which say the schedule",
            got=given,
            fix="Give the results file of lmms-eval itself.",
        )
    pairs = (part.partition("=") for part in re.split(r",(?=[\w-]+=)", given) if part)
    return {name.strip().replace("-", "_"): value.strip("\"' ") for name, _, value in pairs}


def _schedule(arguments: dict[str, str]) -> dict[str, Any]:
    """As a schedule file holds it; without any of the keys nothing was reduced."""
    given = {name: arguments.get(name) for name in ("schedule", *PARTS)}
    return Schedule.from_options(given, "model_args.{}").to_dict()


def _preset(checkpoint: str | None) -> str | None:
    """The preset whose weights these are; None for others."""
    specs = {load_model_spec(name).checkpoint: name for name in preset_names()}
    return specs.get(checkpoint)
