"""load_accuracy(): a user's own scores, from CSV, JSON rows or lmms-eval results."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from aim_cost.errors import ScheduleError, SpecError
from aim_cost.papers.accuracy import COLUMNS, method_of
from aim_cost.render import Row
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.lmms_results import lmms_rows, looks_like_lmms

_FIX = (
    "Write columns schedule and accuracy; optional: benchmark or kind, importance, frames, model, "
    "method, ci_low, ci_high, n."
)
_PERCENT = ("accuracy", "ci_low", "ci_high")


def load_accuracy(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read own scores into the columns of ``accuracy.COLUMNS``, evidence ``own``.

    Files: CSV with a header, JSON rows (a list, or ``{"rows": ...}`` as ``aim-runtime accuracy``
    writes it), or a results file of lmms-eval, one a run. Rows:
        schedule: as ``Schedule.label`` prints it (``merge 0.25, prune linear:14:22``, ``none``), or
            in JSON the mapping that a schedule file holds.
        accuracy, ci_low, ci_high: percent, or shares in a file with no number above 1.
        benchmark or kind: a name; ``all`` where both are missing.
        importance: how pruning ranks, where the schedule does not say it.
        frames, model, method, n: optional. Other columns are left alone.
    The first unreduced row of a benchmark and model is its baseline.
    Raises: SpecError, ScheduleError.
    """
    rows = [row for path in paths for row in _file_rows(Path(path))]
    baselines: dict[tuple[str, str | None], float] = {}
    for row in rows:
        if row["schedule"] == "none":
            baselines.setdefault((row["benchmark"], row["model"]), row["accuracy"])
    names = ", ".join(map(str, paths))
    seen = set()
    for row in rows:
        mine = row["benchmark"], row["model"]
        if mine not in baselines:
            raise SpecError(
                names,
                expected=f"an unreduced row of {row['benchmark']}, schedule none",
                got=f"reduced ones alone, e.g. {row['schedule']}",
                fix="Add the score of the model without reduction.",
            )
        key = tuple(row.get(name) for name in ("benchmark", "schedule", "frames", "model"))
        if key in seen:
            raise SpecError(
                names,
                expected="one row a schedule, benchmark, number of frames and model",
                got=f"a second one of {row['schedule']}, {row['benchmark']}",
                fix="Average seeds and repeats first.",
            )
        seen.add(key)
        row["baseline"] = baselines[mine]
        row["difference"] = row["accuracy"] - row["baseline"]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"frames": "Int64"})


def _file_rows(path: Path) -> list[Row]:
    given = _given_rows(path)
    if not given:
        raise SpecError(str(path), expected="rows of accuracy", got="none", fix=_FIX)
    rows = [_row(row, f"{path}, row {number}") for number, row in enumerate(given, start=1)]
    if all(row["accuracy"] <= 1 for row in rows):
        for row in rows:
            row |= {name: 100 * row[name] for name in _PERCENT if row.get(name) is not None}
    for number, row in enumerate(rows, start=1):
        if not 0 <= row["accuracy"] <= 100:
            raise SpecError(
                f"{path}, row {number}: accuracy",
                expected="percent, or shares in the whole file",
                got=row["accuracy"],
                fix="Keep one scale.",
            )
        row |= {"evidence": "own", "source": str(path)}
    return rows


def _given_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            found: Any = frame.to_dict("records")
        else:
            found = json.loads(text)
    except (OSError, ValueError) as error:
        got = " ".join(str(error).split())
        raise SpecError(
            str(path), expected="a readable CSV or JSON file", got=got, fix="Check the path."
        ) from error
    if looks_like_lmms(found):
        return lmms_rows(found, str(path))
    if isinstance(found, dict) and found.keys() == {"rows"}:
        found = found["rows"]
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return found
    raise SpecError(
        str(path),
        expected="a list of rows, or the results of lmms-eval",
        got=type(found).__name__,
        fix=_FIX,
    )


def _row(given: dict[str, Any], where: str) -> Row:
    """One row with our keys, checked."""
    for name in ("schedule", "accuracy"):
        if name not in given:
            raise SpecError(where, expected=f"a column {name}", got=", ".join(given), fix=_FIX)
    schedule = _ranked(Schedule.read(given["schedule"], where), given.get("importance"), where)
    row: Row = {
        "schedule": schedule.label(),
        "benchmark": given.get("benchmark") or given.get("kind") or "all",
        "model": given.get("model") or None,
        "method": given.get("method") or method_of(schedule),
        "budget": schedule.label(),
        "note": "",
    }
    row["accuracy"] = _number(given["accuracy"], f"{where}: accuracy")
    for name in ("ci_low", "ci_high"):
        if given.get(name) not in (None, ""):
            row[name] = _number(given[name], f"{where}: {name}")
    for name in ("frames", "n"):
        if given.get(name) not in (None, ""):
            number = _number(given[name], f"{where}: {name}")
            if not number.is_integer() or number < 1:
                raise SpecError(
                    f"{where}: {name}", expected="a whole number", got=number, fix="Correct it."
                )
            row[name] = int(number)
    return row


def _ranked(schedule: Schedule, importance: object, where: str) -> Schedule:
    """The schedule with a ranking that stands beside it."""
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


def _number(given: object, where: str) -> float:
    try:
        number = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(given, bool) or not math.isfinite(number):
        raise SpecError(where, expected="a number", got=given, fix="Correct it.")
    return number
