"""Fits a start and a bandwidth of each elementwise kind to measured tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from aim_cost.ops.kind import Elementwise
from aim_cost.timing.elementwise import Dispatch, KernelFigures, Ranged, default_eager
from aim_cost.timing.fit.kernels import robust_fit
from aim_cost.timing.fit.table import load_dispatch, load_elementwise, table_path
from aim_cost.timing.form import Array

_START_S = 1e-5
_TAIL = 0.05
_HELD = (
    0.01  # how strongly a fit is held where it starts, in rows; it decides what the rows leave open
)


def fit_eager(
    folder: str | Path, gpu: str, bytes_per_s: float, dtype: str = "bfloat16"
) -> tuple[dict[Elementwise, KernelFigures], Dispatch]:
    """Elementwise and dispatch figures: fitted where a folder has their tables, else the defaults.

    Raises: ProfileError for a malformed table.
    """
    elementwise, dispatch = default_eager()
    if (path := table_path(folder, gpu, "elementwise", dtype)) is not None:
        for kind, rows in load_elementwise(path).items():
            default = elementwise[kind.general]
            elementwise[kind] = _fitted(rows, default.kernels, bytes_per_s, path.name)
    if (path := table_path(folder, gpu, "dispatch", dtype)) is not None:
        source = f"measured: {path.name}"
        measured = {
            kind: Ranged(*times, source=source) for kind, times in load_dispatch(path).items()
        }
        dispatch = replace(dispatch, **measured)
    return elementwise, dispatch


def _fitted(
    rows: tuple[Array, Array, Array], kernels: int, bytes_per_s: float, table: str
) -> KernelFigures:
    """Seconds = parts * start + bytes / (efficiency * bandwidth), by robust least squares of logs.

    The range of the efficiency holds the middle 90 % of the rows.
    """
    moved_bytes, parts, time_s = rows

    def seconds(x: Array) -> Array:
        time: Array = parts * np.exp(x[0]) + moved_bytes / (np.exp(x[1]) * bytes_per_s)
        return time

    typical = float(np.median(moved_bytes / time_s)) / bytes_per_s
    start = np.log([_START_S, typical])
    best = robust_fit(lambda x: np.log(seconds(x)), start, np.log(time_s), np.full(2, _HELD))
    ratio = time_s / seconds(best)
    efficiency = float(np.exp(best[1]))
    return KernelFigures(
        kernels=kernels,
        traffic=1.0,
        efficiency=efficiency,
        low=efficiency / max(1.0, float(np.quantile(ratio, 1 - _TAIL))),
        high=efficiency / min(1.0, float(np.quantile(ratio, _TAIL))),
        source=f"measured: {table}, {len(time_s)} rows",
        start_s=float(np.exp(best[0])),
    )
