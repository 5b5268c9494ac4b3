"""Rows on disk: a JSON file with its environment, or CSV, written after each round."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from aim_cost.errors import AimError
from aim_cost.files import make_folder, write_atomically
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.render import to_csv
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.environment import Environment, environment
from aim_runtime.measurement.measurement import Measurement
from aim_runtime.measurement.row_key import RowKey

_SOFTWARE = ("torch", "transformers", "cuda", "gpu")


class RowStore(Protocol):
    """A store of rows: it has the earlier rows of a measurement and keeps the new ones."""

    def earlier(self) -> Sequence[Measurement]:
        """Rows that need not be measured again where they are complete."""
        ...

    def save(self, rows: Sequence[Measurement]) -> None:
        """Keep rows; those that were kept under the same keys are replaced."""
        ...


class Nowhere:
    """Rows are not kept."""

    def earlier(self) -> Sequence[Measurement]:
        return ()

    def save(self, rows: Sequence[Measurement]) -> None:
        pass


class RowFile:
    """A file of rows: CSV where the name ends so, else JSON with the environment.

    Args: resume, begin with the rows that the file holds; else they are replaced.
    Raises: MeasurementError for a file of another kind, or of another device or other software.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        make_folder(path.parent)
        self._path = path
        then, self._rows = _read(path) if resume else (None, [])
        self._environment = environment()  # it takes tens of milliseconds: once a file
        if then is not None and self._rows:
            require_same_software(then, self._environment, str(path))

    def earlier(self) -> Sequence[Measurement]:
        return self._rows

    def save(self, rows: Sequence[Measurement]) -> None:
        self._rows = replaced(self._rows, rows)
        written = [row.to_row() for row in self._rows]
        if self._path.suffix == ".csv":
            content = to_csv(written) + "\n"
        else:
            tree = {"environment": self._environment.to_row(), "rows": written}
            content = json.dumps(tree, indent=2) + "\n"
        write_atomically(self._path, content.encode())


class Keyed(Protocol):
    """Anything that a key tells from others."""

    @property
    def key(self) -> RowKey: ...


_Keyed = TypeVar("_Keyed", bound=Keyed)


def replaced(earlier: Sequence[_Keyed], rows: Sequence[_Keyed]) -> list[_Keyed]:
    """Earlier rows with other keys, then ``rows``."""
    mine = {row.key for row in rows}
    return [*(row for row in earlier if row.key not in mine), *rows]


def read_rows(path: Path) -> list[Measurement]:
    """The rows of a JSON file that ``RowFile`` wrote; none when there is no file.

    Raises: MeasurementError for a file of another kind.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Environment | None, list[Measurement]]:
    """The environment of a file and its rows."""
    if not path.exists():
        return None, []
    try:
        tree = json_tree(text_of(path))
        return Environment.of(tree["environment"]), [Measurement.of(row) for row in tree["rows"]]
    except (AimError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MeasurementError(
            f"{path}",
            expected="JSON rows that measure wrote",
            got=" ".join(str(error).split()),
            fix="Give another --out, or leave --resume out.",
        ) from error


def require_same_software(then: Environment, now: Environment, where: str) -> None:
    """Rows of another GPU or version must not be told as ours.

    The CPU counts only where there is no GPU: machines with the same GPU may have others.
    Raises: MeasurementError that names the first difference.
    """
    for name in (*_SOFTWARE, *(() if now.gpu else ("cpu",))):
        before, here = getattr(then, name), getattr(now, name)
        if before != here:
            raise MeasurementError(
                f"{where}: environment.{name}",
                expected=f"{here}, as here",
                got=before,
                fix="Give another --out.",
            )
