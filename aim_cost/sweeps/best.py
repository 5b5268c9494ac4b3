"""The rows of a sweep with the shortest time to first token, and the table that shows them."""

from collections.abc import Iterable

import pandas as pd
from rich.console import Group
from rich.text import Text

from aim_cost.render import Row, table
from aim_cost.sweeps.grid import Grid
from aim_cost.units import giga, milli, tera


def best_rows(frames: Iterable[pd.DataFrame], count: int) -> pd.DataFrame:
    """The ``count`` rows of least ``ttft_s`` over all frames, quickest first."""
    best: pd.DataFrame | None = None
    for frame in frames:
        both = frame if best is None else pd.concat([best, frame], ignore_index=True)
        best = both.nsmallest(count, "ttft_s")
    assert best is not None
    return best.reset_index(drop=True)


def to_rows(frame: pd.DataFrame) -> list[Row]:
    """Return plain values; None where a schedule has no such layer."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


def best_table(rows: list[Row], grid: Grid) -> Group:
    """A table of the rows; axes of one value are in its title, long names in its note."""
    axes = {
        "model": [m.name for m in grid.models],
        "hardware": [h.name for h in grid.hardware],
        "execution": [e.mode for e in grid.executions],
        "frames": grid.frames,
        "text": grid.text_tokens,
        "merge": grid.retentions,
        "prune": grid.prunes,
    }
    cells = [_axis_cells(row) for row in rows]
    varied = [name for name, values in axes.items() if len(values) > 1]
    shared = ", ".join(f"{name} {cells[0][name]}" for name in axes if name not in varied)
    note = (
        f"Times: {', '.join(sorted({row['source'] for row in rows}))}. Accuracy is no part of "
        "this order. For bands and phases of a row: aim-cost predict."
    )
    names = [name for name in _NAMES if name in varied]
    if len(names) > 1:
        settings = [", ".join(row[name] for name in names) for row in cells]
        known = list(dict.fromkeys(settings))
        for row, setting in zip(cells, settings, strict=True):
            row["on"] = str(known.index(setting) + 1)
        varied = ["on", *(name for name in varied if name not in names)]
        note += "".join(f"\non {place}: {setting}" for place, setting in enumerate(known, 1))
    lines = [
        (*(cell[name] for name in varied), *_figures(row))
        for cell, row in zip(cells, rows, strict=True)
    ]
    title = Text(f"The quickest {len(rows)} of {grid.rows:,} rows", style="bold")
    columns = (*varied, "TFLOPs", "KV GB", "TTFT ms")
    # printed apart, since rich wraps a table's own title and caption at the width of the table
    return Group(title, *([shared] if shared else []), table("", columns, lines), note)


_NAMES = ("model", "hardware", "execution")


def _axis_cells(row: Row) -> dict[str, str]:
    pruned, retention = row["prune.l1"] is not None, row["merge.retention"]
    return {
        **{name: row[name] for name in _NAMES},
        "frames": str(row["frames"]),
        "text": str(row["text_tokens"]),
        "merge": "none" if retention == 1 else f"{retention:g}",
        "prune": f"{row['prune.l1']}:{row['prune.l2']}" if pruned else "none",
    }


def _figures(row: Row) -> tuple[str, str, str]:
    return (
        f"{tera(row['total.flops']):.2f}",
        f"{giga(row['kv_cache_bytes']):.3f}",
        f"{milli(row['ttft_s']):.2f}",
    )
