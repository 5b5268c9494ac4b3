"""A user's own scores, from CSV, JSON rows or lmms-eval results."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aim_cost.checks import one_of
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.files.csv_text import read_csv
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.lmms_results import lmms_scores, looks_like_lmms
from aim_cost.studies.own_score import OwnScore, OwnScores, Scale

_FIX = (
    "Write columns schedule and accuracy; optional: benchmark or kind, scale, importance, frames, "
    "model, method, budget, ci_low, ci_high, n."
)
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")


def read_scores(paths: Sequence[str | Path]) -> OwnScores:
    """Read own scores.

    Files: CSV with a header, JSON rows (a list, or ``{"rows": ...}`` as ``aim-runtime accuracy``
    writes it), or a results file of lmms-eval, one a run. CSV may have any separator and a decimal
    comma, as spreadsheets write it. Rows:
        schedule: as ``Schedule.label`` prints it (``merge 0.25, prune linear:14:22``, ``none``), or
            in JSON the mapping that a schedule file holds.
        accuracy, ci_low, ci_high: share or percent; other points where ``scale`` says so.
        scale: ``share``, ``percent`` or ``points``; without it what all scores of the benchmark
            say, over all files.
        benchmark or kind: a name; ``all`` where both are missing.
        importance: how pruning ranks, where the schedule does not say it.
        frames, model, method, n: optional.
        budget: optional; what the method was given: a share of the tokens, or a text.
    Other columns are left alone.
    Raises: SpecError, ScheduleError.
    """
    return OwnScores.of(score for path in paths for score in _file_scores(Path(path)))


def _file_scores(path: Path) -> list[OwnScore]:
    found = _content(path)
    if looks_like_lmms(found):
        return lmms_scores(found, str(path))
    if isinstance(found, dict) and "rows" in found:
        found = found["rows"]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise SpecError(
            str(path),
            expected="a list of rows, or the results of lmms-eval",
            got=type(found).__name__,
            fix=_FIX,
        )
    if not found:
        raise SpecError(str(path), expected="rows of accuracy", got="none", fix=_FIX)
    return [
        _score(row, str(path), f"{path}, row {number}") for number, row in enumerate(found, start=1)
    ]


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return json_tree(text_of(path), nan_is_none=True)
        return _with_decimal_points(read_csv(path).rows)
    except OSError as error:
        got = error.strerror or str(error)
        raise SpecError(
            str(path), expected="a readable file", got=got, fix="Check the path."
        ) from error
    except ValueError as error:
        raise SpecError(
            str(path), expected="a readable CSV or JSON file", got=str(error), fix=_FIX
        ) from error


def _with_decimal_points(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with a point in place of a decimal comma. Raises: ValueError where both stand."""
    names = ("accuracy", "ci_low", "ci_high")
    numbers = [(row, name) for row in rows for name in names if row.get(name)]
    commas = [row[name] for row, name in numbers if _DECIMAL_COMMA.fullmatch(_bare(row[name]))]
    points = [row[name] for row, name in numbers if "." in row[name]]
    if commas and points:
        raise ValueError(f"a decimal comma in {commas[0]} and a point in {points[0]}: keep one")
    if commas:
        for row, name in numbers:
            row[name] = row[name].replace(",", ".")
    return rows


def _bare(number: str) -> str:
    return number.removesuffix("%").strip()


def _score(given: Mapping[str, Any], source: str, where: str) -> OwnScore:
    for name in ("schedule", "accuracy"):
        if name not in given:
            raise SpecError(where, expected=f"a column {name}", got=", ".join(given), fix=_FIX)
    schedule = _ranked(Schedule.read(given["schedule"], where), given.get("importance"), where)
    scale = _scale(given, where)
    value, low, high = (
        _number(given[name], f"{where}: {name}") if given.get(name) not in (None, "") else None
        for name in ("accuracy", "ci_low", "ci_high")
    )
    if value is None:
        raise SpecError(
            f"{where}: accuracy", expected="a number", got=given["accuracy"] or "nothing", fix=_FIX
        )
    _check_range(value, scale, where)
    return OwnScore(
        where=where,
        source=source,
        schedule=schedule,
        task=_text(given, "benchmark", where) or _text(given, "kind", where) or "all",
        value=value,
        scale=scale,
        low=low,
        high=high,
        frames=_count(given, "frames", where),
        model=_text(given, "model", where),
        method=_text(given, "method", where),
        budget=_budget(given.get("budget")),
        questions=_count(given, "n", where),
    )


def _check_range(value: float, scale: Scale | None, where: str) -> None:
    most = {Scale.SHARE: 1, Scale.PERCENT: 100, None: 100}.get(scale)
    if most is not None and not 0 <= value <= most:
        raise SpecError(
            f"{where}: accuracy",
            expected=f"a share or percent, from 0 to {most}",
            got=value,
            fix="Correct it; for other scores write points in a column scale.",
        )


def _ranked(schedule: Schedule, importance: object, where: str) -> Schedule:
    """The schedule, with the ranking that its row says in another column."""
    if not importance or schedule.prune is None or schedule.prune.importance == importance:
        return schedule
    if schedule.prune.importance != Prune.importance:
        raise ScheduleError(
            f"{where}: importance",
            expected=schedule.prune.importance,
            got=str(importance),
            fix="Name one ranking.",
        )
    return replace(schedule, prune=replace(schedule.prune, importance=str(importance)))


def _scale(given: Mapping[str, Any], where: str) -> Scale | None:
    text, accuracy = given.get("scale"), given["accuracy"]
    if text not in (None, ""):
        return Scale(one_of(text, [str(scale) for scale in Scale], f"{where}: scale", SpecError))
    return Scale.PERCENT if isinstance(accuracy, str) and accuracy.endswith("%") else None


def _text(given: Mapping[str, Any], name: str, where: str) -> str | None:
    value = given.get(name)
    if value in (None, ""):
        return None
    if isinstance(value, str):
        return value
    raise SpecError(f"{where}: {name}", expected="text", got=value, fix="Put quotes around it.")


def _budget(value: object) -> str | None:
    """``50 %`` for 0.5; another text stays as it is."""
    if value in (None, ""):
        return None
    is_share = _NUMBER.fullmatch(str(value)) and 0 < float(str(value)) <= 1
    return f"{100 * float(str(value)):g} %" if is_share else str(value)


def _count(given: Mapping[str, Any], name: str, where: str) -> int | None:
    value = given.get(name)
    if value in (None, ""):
        return None
    number = _number(value, f"{where}: {name}")
    if number.is_integer() and 1 <= number <= 1e9:
        return int(number)
    raise SpecError(
        f"{where}: {name}", expected="a whole number from 1 to 1e9", got=value, fix="Correct it."
    )


def _number(given: object, where: str) -> float:
    text = _bare(given) if isinstance(given, str) else given
    if isinstance(text, str) and _NUMBER.fullmatch(text) and len(text) < 40:
        return float(text)
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    raise SpecError(where, expected="a number", got=given, fix="Correct it.")
