"""AccuracyFile: lines of accuracy on disk, each with its exam."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aim_cost.errors import AimError
from aim_cost.files import make_folder, write_atomically
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.render import Row, to_csv
from aim_runtime.answers.accuracy import Accuracy
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.environment import Environment, environment
from aim_runtime.measurement.row_file import require_same_software


@dataclass(frozen=True)
class ExamKey:
    """An exam's identity: the model, and how the questions were drawn."""

    model: str
    split: str
    frames: int
    seed: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "ExamKey":
        """The exam of a row of a file. Raises: KeyError for another row."""
        return cls(row["model"], row["split"], row["frames"], row["seed"])


class AccuracyFile:
    """A file of lines: CSV where the name ends so, else JSON with the environment.

    Args: resume, begin with the lines that the file holds, those of other exams too.
    Raises: MeasurementError for a file that cannot be continued.
    """

    def __init__(self, path: Path, exam: ExamKey, *, resume: bool = False) -> None:
        make_folder(path.parent)
        self._path, self._exam = path, exam
        self._then, known = _read(path) if resume and path.exists() else (None, [])
        self._environment = environment()  # it takes tens of milliseconds: once a file
        self.earlier = [line for key, line in known if key == exam]
        """Lines of this exam."""
        self._others = [(key, line) for key, line in known if key != exam]

    def require_same_software(self) -> None:
        """Refuse to add lines to those of another device or version, which may still be read.

        Raises: MeasurementError.
        """
        if self._then is not None:
            require_same_software(self._then, self._environment, str(self._path))

    def save(self, lines: Sequence[Accuracy]) -> None:
        """Write these lines in place of those of this exam."""
        rows = [exam_row(key, line) for key, line in self._others]
        rows += [exam_row(self._exam, line) for line in lines]
        if self._path.suffix == ".csv":
            text = to_csv(rows)
        else:
            tree = {"environment": self._environment.to_row(), "rows": rows}
            text = json.dumps(tree, indent=1)
        write_atomically(self._path, (text + "\n").encode())


def exam_row(exam: ExamKey, line: Accuracy) -> Row:
    """A flat row: the exam, then the line."""
    return {**asdict(exam), **line.to_row()}


def _read(path: Path) -> tuple[Environment | None, list[tuple[ExamKey, Accuracy]]]:
    """The environment, None in files of before it was kept, and the lines."""
    try:
        tree = json_tree(text_of(path))
        where = tree.get("environment")
        lines = [(ExamKey.of(row), Accuracy.of(row)) for row in tree["rows"]]
        return None if where is None else Environment.of(where), lines
    except (AimError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MeasurementError(
            str(path),
            expected="JSON rows that accuracy wrote",
            got=" ".join(str(error).split()),
            fix="Give another --out, or leave --resume out.",
        ) from error
