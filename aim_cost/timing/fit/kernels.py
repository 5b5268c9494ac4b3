"""Fits a kernel model to a table: the law by robust least squares on log time, then the surface."""

from collections.abc import Callable

import numpy as np

from aim_cost.timing.fit.table import KernelTable
from aim_cost.timing.form import Array, Ceilings
from aim_cost.timing.kernel_model import Band, KernelModel
from aim_cost.timing.surface import Surface, corners, follow_law, ridge

_LAW_ROWS = 12000  # enough for some fifteen parameters; more only cost time
_FULL_ROWS = 1000  # from here on parameters are held with their full weight
_LEAST_HOLD = 0.01  # holds the parameters that no row decides
_ROBUST_AT = 0.15
NO_BAND = Band(np.array([1e-6, 1.0]), np.zeros(2), np.zeros(2))


def fit_kernel_model(table: KernelTable, ceilings: Ceilings) -> KernelModel:
    """Fit the law to an even sample of the rows, then the surface to what it leaves in all."""
    form = table.form
    step = max(1, len(table) // _LAW_ROWS)
    sample = table.rows(np.arange(0, len(table), step))

    def predicted(parameters: Array) -> Array:
        return np.log(form.law(parameters, ceilings, sample.dims))

    # Few rows must not be outweighed by where the parameters start.
    weights = np.array([p.weight for p in form.parameters])
    weights *= np.clip((len(table) / _FULL_ROWS) ** 2, _LEAST_HOLD, 1.0)
    parameters = robust_fit(predicted, form.start, np.log(sample.time_s), weights)
    knots = tuple(np.array(axis, dtype=np.float64) for axis in form.knots)
    others, which = np.unique(np.stack(table.dims[1:]), axis=1, return_inverse=True)
    column = which.ravel()
    law, ends, below, share = follow_law(
        form, parameters, ceilings, knots[0], table.dims, tuple(others), column
    )
    # To first order the log ratio of a row is that of its two ends, weighted by their times.
    upper = share * ends[below + 1, column] / law
    upper = np.where((share > 0) & (share < 1), np.clip(upper, 0, 1), share)
    shape = [len(axis) for axis in knots]
    inner = int(np.prod(shape[1:]))
    cells = [
        ((below + side) * inner + index, weight * part)
        for index, weight in corners(knots[1:], form.coordinates(table.dims))
        for side, part in ((0, 1 - upper), (1, upper))
    ]
    values = ridge(knots, cells, np.log(table.time_s / law))
    sizes = tuple((float(size.min()), float(size.max())) for size in table.dims)
    return KernelModel(form, parameters, Surface(knots, values), sizes, NO_BAND)


def robust_fit(
    predict: Callable[[Array], Array],
    start: Array,
    measured: Array,
    weights: Array,
    iterations: int = 30,
) -> Array:
    """Minimise the Huber loss of ``predict(x) - measured`` plus ``weights * (x - start)**2 / 2``.

    Levenberg-Marquardt with a numeric Jacobian: deterministic, numpy alone.
    """
    x, damping = start.copy(), 1e-3

    def cost(error: Array, at: Array) -> float:
        size = np.abs(error)
        loss = np.where(
            size < _ROBUST_AT, size * size / 2, _ROBUST_AT * (size - _ROBUST_AT / 2)
        ).sum()
        return float(loss + (weights * (at - start) ** 2).sum() / 2)

    error = predict(x) - measured
    best = cost(error, x)
    for _ in range(iterations):
        importance = np.minimum(1.0, _ROBUST_AT / np.maximum(np.abs(error), 1e-12))
        jacobian = np.empty((len(measured), len(x)))
        for place in range(len(x)):
            moved = x.copy()
            moved[place] += 1e-4
            jacobian[:, place] = (predict(moved) - measured - error) / 1e-4
        normal = (jacobian * importance[:, None]).T @ jacobian + np.diag(weights)
        slope = (jacobian * importance[:, None]).T @ error + weights * (x - start)
        before = best
        for _ in range(8):
            damped = normal + damping * np.diag(np.diag(normal))
            try:
                step = np.linalg.solve(damped, slope)
            except (
                np.linalg.LinAlgError
            ):  # no step from a singular matrix: hold more tightly and try again
                damping *= 4
                continue
            trial = x - np.clip(step, -1, 1)
            trial_error = predict(trial) - measured
            if (trial_cost := cost(trial_error, trial)) < best:
                x, error, best, damping = trial, trial_error, trial_cost, damping / 5
                break
            damping *= 4
        if before - best < 1e-5 * before:
            break
    return x
