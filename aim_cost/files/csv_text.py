"""CSV as people and spreadsheets write it: the rows of a table as text."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from aim_cost.files.text import text_of

_SEPARATORS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class CsvTable:
    """The names of the columns, and each row by them; a cell that a row lacks is empty."""

    names: list[str]
    rows: list[dict[str, str]]


def read_csv(path: Path) -> CsvTable:
    """The table in a CSV file.

    The separator is the one that gives the first row the most columns, or the one that a line
    ``sep=;`` names before it. Names of columns lose the space around them, empty rows are left out.
    Raises: OSError; ValueError for a file that is no such table.
    """
    text = text_of(path)
    if not text.strip():
        raise ValueError("an empty file")
    first, _, rest = text.partition("\n")
    if named := first.strip().lower().startswith("sep="):
        text = rest
    separators = (first.strip()[4:] or "\t",) if named else _SEPARATORS
    try:
        separator = max(separators, key=lambda one: len(_first_row(text, one)))
        return _table(text, separator)
    except (csv.Error, TypeError) as error:  # the second for a separator of several characters
        raise ValueError(" ".join(str(error).split())) from error


def _first_row(text: str, separator: str) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline=None), delimiter=separator), [])


def _table(text: str, separator: str) -> CsvTable:
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator, strict=True)
    names = [name.strip() for name in next(reader, [])]
    while names and not names[-1]:  # spreadsheets keep columns that were emptied
        names.pop()
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the column {twice[0]!r} twice")
    found = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if any(cells[len(names) :]):
            raise ValueError(
                f"{len(cells)} cells under {len(names)} columns in line {reader.line_num}: put "
                f"quotes around text that holds {separator!r}"
            )
        if any(cells):
            filled = [*cells, *[""] * len(names)][: len(names)]
            found.append(dict(zip(names, filled, strict=True)))
    return CsvTable(names, found)
