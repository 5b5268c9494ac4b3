"""Rows on disk: a JSON file with its environment, or CSV, written anew after each round."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from aim_cost.files import write_atomically
from aim_cost.render import to_csv
from aim_cost.text_files.json_text import json_tree
from aim_cost.text_files.text import text_of
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.environment import environment
from aim_runtime.measurement.row_key import Row, RowKey

_SOFTWARE = ("torch", "transformers", "cuda", "gpu")


class RowStore(Protocol):
    """Where a measurement finds the rows of before and leaves its own."""

    def earlier(self) -> Sequence[Row]:
        """Rows that need not be measured again where they are complete."""
        ...

    def save(self, rows: Sequence[Row]) -> None:
        """Keep rows; those that were kept under the same keys are replaced."""
        ...


class Nowhere:
    """Rows are not kept."""

    def earlier(self) -> Sequence[Row]:
        return ()

    def save(self, rows: Sequence[Row]) -> None:
        pass


class RowFile:
    """A file of rows: CSV where the name ends so, else JSON with the environment.

    Args: resume, begin with the rows that the file holds; else they are replaced.
    Raises: MeasurementError for a file of another kind, or of another device or other software.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self._path = path
        then, self._rows = _read(path) if resume else ({}, [])
        self._environment = environment()  # it takes tens of milliseconds: once a file
        if self._rows:
            require_same_software(then, self._environment, str(path))

    def earlier(self) -> Sequence[Row]:
        return self._rows

    def save(self, rows: Sequence[Row]) -> None:
        self._rows = replaced(self._rows, rows)
        if self._path.suffix == ".csv":
            content = to_csv(self._rows) + "\n"
        else:
            tree = {"environment": self._environment, "rows": self._rows}
            content = json.dumps(tree, indent=2) + "\n"
        write_atomically(self._path, content.encode())


def replaced(earlier: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Earlier rows with other keys, then ``rows``."""
    mine = {RowKey.of(row) for row in rows}
    return [*(row for row in earlier if RowKey.of(row) not in mine), *rows]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON file that ``RowFile`` wrote; none when there is no file.

    Raises: MeasurementError for a file of another kind.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Row, list[Row]]:
    """The environment of a file and its rows."""
    if not path.exists():
        return {}, []
    try:
        tree = json_tree(text_of(path))
        for row in tree["rows"]:
            RowKey.of(row), row["repeats"], row["error"]
        return dict(tree["environment"]), list(tree["rows"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MeasurementError(
            f"{path}",
            expected="JSON rows that measure wrote",
            got=" ".join(str(error).split()),
            fix="Give another --out, or leave --resume out.",
        ) from error


def require_same_software(then: Row, now: Row, where: str) -> None:
    """Rows of another GPU or version must not be told as ours.

    The CPU counts only where there is no GPU: machines with the same GPU may have others.
    Raises: MeasurementError that names the first difference.
    """
    for name in (*_SOFTWARE, *(() if now["gpu"] else ("cpu",))):
        if then.get(name) != now[name]:
            raise MeasurementError(
                f"{where}: environment.{name}",
                expected=f"{now[name]}, as here",
                got=then.get(name),
                fix="Give another --out.",
            )
