"""fit_calibration: from a folder of kernel tables to the calibration of a device."""

import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from aim_cost.devices.hardware import HardwareProfile, load_hardware
from aim_cost.errors import ProfileError
from aim_cost.timing.calibration import Calibration, FittedKernels
from aim_cost.timing.fit.band import band_of, errors_of
from aim_cost.timing.fit.elementwise import fit_eager
from aim_cost.timing.fit.evaluate import bar_rows, cross_coverage, held_out, surface_model
from aim_cost.timing.fit.kernels import fit_kernel_model
from aim_cost.timing.fit.table import KernelTable, load_kernels
from aim_cost.timing.form import Array, Ceilings
from aim_cost.timing.kernel_model import Band, KernelModel
from aim_cost.timing.surface import Surface

_LEAST_SHAPES = 2


def fit_calibration(
    kernels: str | Path,
    hardware: str | HardwareProfile,
    dtype: str = "bfloat16",
    *,
    source: str = "",
) -> Calibration:
    """Fit every table of a device in a folder; errors and bands are held out by shape.

    Args: hardware, a profile or its name; source, who measured and where (the folder by default).
    Returns: the calibration; elementwise and dispatch figures without a table are the defaults.
    Raises: ProfileError for missing or malformed tables, or a profile that lacks a peak.
    """
    profile = load_hardware(hardware) if isinstance(hardware, str) else hardware
    ceilings = Ceilings.of(profile, dtype)
    tables = load_kernels(kernels, profile.name, dtype)
    elementwise, dispatch = fit_eager(
        kernels, profile.name, float(profile.memory_bandwidth_bytes_per_s), dtype
    )
    return Calibration(
        hardware=profile.name,
        dtype=dtype,
        source=source or f"tables in {Path(kernels).name}",
        fitted_on=datetime.date.today().isoformat(),
        versions={"aim-efficiency": _version(), "numpy": np.__version__},
        kernels={op: fit_kernels(table, ceilings) for op, table in tables.items()},
        elementwise=elementwise,
        dispatch=dispatch,
    )


def fit_kernels(table: KernelTable, ceilings: Ceilings) -> FittedKernels:
    """Fit one table, with the errors and the band of folds that never saw the shape they price.

    Raises: ProfileError for a table of one shape, from which no fold could be held out.
    """
    shapes = len(np.unique(table.shapes()))
    if shapes < _LEAST_SHAPES:
        raise ProfileError(
            table.source,
            expected=f"at least {_LEAST_SHAPES} shapes of {table.form.op}, to hold some out",
            got=f"{shapes} in {len(table)} rows",
            fix="Measure longer, or with more frames (aim-runtime microbench --seconds).",
        )
    predicted = held_out(table, ceilings, surface_model)
    rows = bar_rows(table)
    rows = rows if rows.any() else np.ones(len(table), dtype=bool)
    errors = errors_of(predicted[rows], table.time_s[rows])
    errors["coverage"] = cross_coverage(table, predicted, rows)
    fitted = fit_kernel_model(table, ceilings)
    band = band_of(predicted, table.time_s)
    return FittedKernels(
        model=KernelModel(
            form=fitted.form,
            parameters=_digits(fitted.parameters, 5),
            surface=Surface(
                tuple(np.round(axis, 4) for axis in fitted.surface.knots),
                np.round(fitted.surface.values, 3) + 0.0,
            ),
            sizes=fitted.sizes,
            band=Band(_digits(band.time_s, 4), np.round(band.low, 4), np.round(band.high, 4)),
        ),
        rows=len(table),
        table=table.source,
        held_out={
            key: value if key == "n" else float(f"{value:.4g}") for key, value in errors.items()
        },
    )


def _digits(values: Array, count: int) -> Array:
    return np.array([float(f"{value:.{count}g}") for value in values])


def _version() -> str:
    try:
        return version("aim-efficiency")
    except PackageNotFoundError:
        return "source tree"
