"""aim-runtime report: a campaign's rows against the model, in tables and one picture."""

import json
from pathlib import Path
from typing import Annotated

import typer

from aim_cost.cli.options import FormatOption
from aim_cost.render import Format, console, print_rows


def report(
    folder: Annotated[Path, typer.Argument(help="What aim-runtime campaign wrote.")],
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture: .png, .pdf or .svg.", dir_okay=False)
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(
            help="Write the kernel tables here, a folder a model, for aim-cost calibrate."
        ),
    ] = None,
    afterwards: Annotated[
        bool,
        typer.Option(
            "--afterwards", help="Also compare rows that were not predicted before they were timed."
        ),
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Compare the rows of a campaign with the model: errors of each prediction, and speed-ups.

    Rows that a fit may see stand apart from those held out. A row whose prediction is younger than
    the row itself is left out of the errors, and counted.
    """
    from aim_runtime.campaigns.errors import drifts, error_lines, gains
    from aim_runtime.campaigns.report import read_report, write_tables
    from aim_runtime.campaigns.table import report_notes, report_tables

    if plot is not None:
        from aim_cost.plots.style import suffix_of

        suffix_of(plot)
    found = read_report(folder, afterwards=afterwards)
    if tables is not None:
        for path in write_tables(folder, tables):
            console(error=True).print(f"wrote {path}")
    if plot is not None:
        from aim_runtime.campaigns.plots import report_plot

        report_plot(found.rows, plot)
        console(error=True).print(f"wrote {plot}")
    if form is Format.csv:
        print_rows([row.to_row() for row in found.rows], form)
    elif form is Format.json:
        content = {
            "notes": report_notes(found),
            "errors": [line.to_row() for line in error_lines(found.rows)],
            "gains": [line.to_row() for line in gains(found.rows)],
            "drift": [line.to_row() for line in drifts(found.rows)],
            "decode": [row.to_row() for row in found.decode],
            "rows": [row.to_row() for row in found.rows],
        }
        print(json.dumps(content, indent=2))
    else:
        console().print(report_tables(found))
