"""Surface: a correction of log time on a small grid, fitted by ridge regression."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from aim_cost.timing.form import Array, Ceilings, Form, Index


@dataclass(frozen=True)
class Surface:
    """Log ratio of measured time to the law at the knots of a grid.

    Args: knots, log2 coordinates of each axis, the first that of the first size; values, the log
    ratio, shape (len(knots[0]), len(knots[1]), ...).
    """

    knots: tuple[Array, ...]
    values: Array

    def at_knots(self, coordinates: tuple[Array, ...]) -> Array:
        """Log ratio at every knot of the first axis, interpolated over the others.

        Shapes: coordinates, each [U] -> [len(knots[0]), U]. Outside the grid its edge holds.
        """
        flat = self.values.reshape(len(self.knots[0]), -1)
        total = np.zeros((len(self.knots[0]), len(coordinates[0])))
        for index, weight in corners(self.knots[1:], coordinates):
            total += flat[:, index] * weight
        return total


def interval(knots: Array, coordinate: Array) -> tuple[Index, Array]:
    """The knot below each coordinate, and the share of the way to the next one, 0 to 1."""
    inside = np.clip(coordinate, knots[0], knots[-1])
    below = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
    return below, (inside - knots[below]) / (knots[below + 1] - knots[below])


def corners(knots: tuple[Array, ...], coordinates: tuple[Array, ...]) -> list[tuple[Index, Array]]:
    """The corners of the cell around each point: flat index into the grid, and weight."""
    found = [(np.zeros(len(coordinates[0]), dtype=np.int64), np.ones(len(coordinates[0])))]
    for axis, coordinate in zip(knots, coordinates, strict=True):
        below, share = interval(axis, coordinate)
        found = [
            (index * len(axis) + below + step, weight * part)
            for index, weight in found
            for step, part in ((0, 1 - share), (1, share))
        ]
    return found


def follow_law(
    form: Form,
    parameters: Array,
    ceilings: Ceilings,
    knots: Array,
    dims: tuple[Array, ...],
    others: tuple[Array, ...],
    which: Index,
) -> tuple[Array, Array, Index, Array]:
    """The law at each point and at the knots of its first size, and the shape between them.

    Between two knots time moves as the law does, from one corrected end to the other; so it never
    falls where the law and the corrected ends do not.

    Shapes: dims, each [N]; others, the sizes beside the first, each [U]; which[N] in U.
    Returns: law[N], law at knots [J, U], the knot below [N], the share of the way up [N].
    """
    sizes = np.exp2(knots)[:, None]
    ends = form.law(parameters, ceilings, (sizes, *(other[None, :] for other in others)))
    law = form.law(parameters, ceilings, dims)
    below, _ = interval(knots, np.log2(dims[0]))
    low, high = ends[below, which], ends[below + 1, which]
    share = np.clip((law - low) / np.maximum(high - low, 1e-12 * high), 0.0, 1.0)
    return law, ends, below, share


def ridge(
    knots: tuple[Array, ...],
    cells: list[tuple[Index, Array]],
    residual: Array,
    smoothness: float = 0.5,
    shrinkage: float = 0.1,
    robust_at: float = 0.05,
    passes: int = 4,
) -> Array:
    """Fit the values at the knots to log residuals by reweighted, smoothed least squares.

    Args: cells, the corners of each row with weights; smoothness, the price of a squared slope
    along each axis; shrinkage, the price of a squared value; robust_at, the log residual beyond
    which a row counts by its absolute error.
    """
    shape = [len(axis) for axis in knots]
    count = int(np.prod(shape))
    prior = shrinkage * np.eye(count)
    for place, axis in enumerate(knots):
        slope = np.diff(np.eye(len(axis)), axis=0) / np.sqrt(np.diff(axis))[:, None]
        parts = [np.eye(size) for size in shape]
        parts[place] = slope.T @ slope
        term: Array = np.ones((1, 1))
        for part in parts:
            term = np.asarray(np.kron(term, part), dtype=np.float64)
        prior += smoothness * term
    importance: Array = np.ones(len(residual))
    values: Array = np.zeros(count)
    for _ in range(passes):
        normal = prior.copy()
        right = np.zeros(count)
        for (i, a), (j, b) in product(cells, cells):
            pair = np.bincount(i * count + j, a * b * importance, count * count)
            normal += pair.reshape(count, count)
        for i, a in cells:
            right += np.bincount(i, a * importance * residual, count)
        values = np.asarray(np.linalg.solve(normal, right), dtype=np.float64)
        fitted = sum((weight * values[index] for index, weight in cells), np.zeros(len(residual)))
        importance = robust_at / np.maximum(np.abs(fitted - residual), robust_at)
    return values.reshape(shape)
