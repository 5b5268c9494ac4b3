"""The style of all pictures: size, fonts, colours, small print, and the writing of files."""

import io
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aim_cost.case import Estimate
from aim_cost.checks import one_of
from aim_cost.errors import SpecError
from aim_cost.files import write_atomically

# Okabe and Ito's palette, told apart by colour-blind readers
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
GREY = "#777777"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
COLUMN, PAGE = 3.5, 7.0
"""Width of a picture in inches: one column of a paper, or both."""

SUFFIXES = (".pdf", ".png", ".svg")
_SMALL, _BASE = 7, 8  # points
_SMALL_PER_INCH = 18.5  # characters
_LINE, _KEY, _TITLE = 0.13, 0.165, 0.155  # inches a line of each kind


def new_figure(
    width: float, height: float, panels: int = 1, rows: int = 1, **axes: Any
) -> tuple[Figure, Any]:
    """A figure and its axes (an array [panels], or [rows, panels], for several), inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=200)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, panels, squeeze=False, **axes)
    for axis in grid.flat:
        axis.tick_params(labelsize=_BASE)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
        axis.grid(color="0.9", linewidth=0.6)
        axis.xaxis.label.set_size(_BASE)
        axis.yaxis.label.set_size(_BASE)
    if rows > 1:
        return figure, grid
    return figure, grid[0, 0] if panels == 1 else grid[0]


def finish(figure: Figure, title: str, small_print: str = "", keys: Any = None) -> Figure:
    """Title above; below the axes a legend, then where the numbers come from.

    Args: keys, ``(handles, labels)`` of the legend, or None. ``small_print`` is wrapped here.
    """
    width, height = figure.get_size_inches()
    below = 0.0
    if small_print:
        text = fill(small_print, int(width * _SMALL_PER_INCH))
        figure.text(0.01, 0.02 / height, text, fontsize=_SMALL, color="0.35", va="bottom")
        below += _LINE * (text.count("\n") + 1) + 0.04
    if keys is not None:
        handles, labels = keys
        columns = max(1, min(len(labels), int(width / (0.55 + 0.068 * max(map(len, labels))))))
        figure.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, below / height),
            borderaxespad=0.2,
            ncols=columns,
            frameon=False,
            fontsize=_BASE,
        )
        below += _KEY * -(-len(labels) // columns) + 0.1
    above = _TITLE * (title.count("\n") + 1) + 0.06
    figure.text(0.01, 1 - 0.04 / height, title, fontsize=_BASE + 1, va="top")
    figure.set_layout_engine(
        "constrained", rect=(0, below / height, 1, 1 - (below + above) / height)
    )
    return figure


def setting(result: Estimate) -> str:
    """Device, type, execution and prompt of an estimate, for titles."""
    workload = result.workload
    return f"{workload.label()} + {workload.text_tokens} text tokens, batch {workload.batch}"


def device(result: Estimate) -> str:
    """Model and device of an estimate, for titles."""
    return f"{result.model.name} on {result.device.name}, {result.execution.dtype}, {result.mode}"


def suffix_of(path: str | Path) -> str:
    """The suffix of a picture that can be written. Raises: SpecError for another one."""
    return one_of(Path(path).suffix, SUFFIXES, f"suffix of {path}", SpecError)


def save(figure: Figure, path: str | Path) -> None:
    """Write a .png, .pdf or .svg; an interrupted write leaves no trace. Raises: SpecError."""
    suffix = suffix_of(path)
    picture = io.BytesIO()
    figure.savefig(picture, format=suffix[1:])
    write_atomically(path, picture.getvalue())
