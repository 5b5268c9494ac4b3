"""Rows to text: tables for people, JSON and CSV in SI units for programs."""

import csv
import html
import io
import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

if TYPE_CHECKING:
    from rich.progress import Progress

Row = dict[str, Any]

_COLUMNS = 80  # of text for no terminal
_LABEL_COLUMNS = 36  # of a table's first column; a longer one may wrap, so that figures stay


class Format(StrEnum):
    """How a command prints its answer."""

    table = "table"
    json = "json"
    csv = "csv"


def console(*, error: bool = False) -> Console:
    """A terminal to print on; 80 columns wide where the output is no terminal."""
    stream = sys.stderr if error else sys.stdout
    terminal = stream.isatty()
    # a notebook claims to be a terminal with colours, and has rich look for widgets
    return Console(
        file=stream,
        width=None if terminal else _COLUMNS,
        highlight=False,
        force_terminal=terminal,
        force_jupyter=False,
    )


def wrapped(text: str) -> str:
    """``text`` in lines of at most 80 columns; paths and other long words stay whole."""
    return fill(text, _COLUMNS, break_long_words=False, break_on_hyphens=False)


def say(text: str) -> None:
    """Print a sentence on stderr at once, in lines of at most 80 columns."""
    print(wrapped(text), file=sys.stderr, flush=True)


class Report:
    """A result that shows itself as tables: to ``print``, to a notebook, and to rich."""

    def __rich__(self) -> RenderableType:
        """The tables that the command line prints for this result."""
        raise NotImplementedError

    def report(self) -> str:
        """The tables as text of 80 columns."""
        text = io.StringIO()
        page = Console(
            file=text,
            width=_COLUMNS,
            highlight=False,
            force_terminal=False,
            force_jupyter=False,
        )
        page.print(self)
        return text.getvalue()

    def __str__(self) -> str:
        return self.report().rstrip("\n")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """What a notebook shows: the text, which no browser may wrap."""
        del kwargs  # include and exclude are hints
        text = str(self)
        style = "white-space: pre; line-height: normal; font-family: monospace"
        return {
            "text/plain": text,
            "text/html": f'<pre style="{style}">{html.escape(text)}</pre>',
        }


def counted_progress() -> "Progress":
    """A bar with steps done of all, on stderr; it goes away at the end."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(error=True),
        transient=True,
    )


def print_rows(rows: Sequence[Row], form: Format) -> None:
    """Print rows as a JSON list or as CSV. ``table`` is the caller's own business."""
    print(to_csv(rows) if form is Format.csv else json.dumps(list(rows), indent=2))


def print_object(row: Row, form: Format) -> None:
    """Print one row as CSV, or as a JSON object that holds its dotted keys nested and flat.

    Both spellings are part of the interface: ``llm.flops`` as a path, and as a column.
    """
    print(to_csv([row]) if form is Format.csv else json.dumps({**nest(row), **row}, indent=2))


def nest(row: Row) -> Row:
    """Turn dotted keys into nested objects: ``{"a.b": 1} -> {"a": {"b": 1}}``."""
    result: Row = {}
    for key, value in row.items():
        *parents, last = key.split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return result


def to_csv(rows: Iterable[Row]) -> str:
    """CSV with a header: the union of the keys, in order of first appearance; lists as JSON."""
    rows = list(rows)
    columns = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()}
        )
    return text.getvalue().rstrip("\n")


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = ""
) -> Table:
    """A rich table that fits 80 columns: the first column is text, the others are figures.

    A first column that is too long for one line wraps, and no figure is left out.
    """
    lines = list(rows)
    long = any(len(line[0]) > _LABEL_COLUMNS for line in lines)
    result = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=note or None,
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        expand=False,
    )
    for index, name in enumerate(columns):
        side: Literal["left", "right"] = "left" if index == 0 else "right"
        result.add_column(name, justify=side, no_wrap=index == 0 and not long)
    for line in lines:
        result.add_row(*line)
    return result


_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_{}[]<>#|~"})
_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "°": r"$^\circ$",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
        "×": r"$\times$",
        "≠": r"$\neq$",
    }
)


def markdown_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]
) -> str:
    """A table in Markdown, its title above and the notes below; the first column is text."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def escaped(text: str) -> str:
        return " ".join(text.split()).translate(_MARKDOWN)

    sides = [":--", *("--:" for _ in columns[1:])]
    lines = [line(map(escaped, columns)), line(sides), *(line(map(escaped, row)) for row in rows)]
    return "\n\n".join([f"**{escaped(title)}**", "\n".join(lines), *map(escaped, notes)])


def latex_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    notes: Iterable[str],
    *,
    label: str,
) -> str:
    r"""A table in LaTeX over both columns of a page; it needs ``\usepackage{booktabs}`` alone.

    The title is the caption, the notes stand below; the first column is text. A head with line
    breaks is stacked.
    """

    def line(cells: Iterable[str]) -> str:
        return rf"{' & '.join(cells)} \\"

    def head(text: str) -> str:
        stacked = r"\\".join(part.translate(_LATEX) for part in text.split("\n"))
        return rf"\shortstack{{{stacked}}}" if "\n" in text else stacked

    return "\n".join(
        [
            *(r"\begin{table*}[t]", r"\centering", r"\small", r"\setlength{\tabcolsep}{4pt}"),
            rf"\caption{{{title.translate(_LATEX)}.}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            *(r"\toprule", line(map(head, columns)), r"\midrule"),
            *(line(cell.translate(_LATEX) for cell in row) for row in rows),
            *(r"\bottomrule", r"\end{tabular}", ""),
            r"\smallskip\raggedright\footnotesize",
            *(note.translate(_LATEX) for note in notes),
            r"\end{table*}",
        ]
    )
