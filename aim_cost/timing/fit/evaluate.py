"""Held-out errors by shape, compared with a datasheet roofline and with three constants."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from aim_cost.devices.hardware import load_hardware
from aim_cost.timing.fit.band import band_of, covered, errors_of
from aim_cost.timing.fit.kernels import fit_kernel_model, robust_fit
from aim_cost.timing.fit.table import KernelTable, load_kernels
from aim_cost.timing.form import Array, Ceilings, Index, Mask

FOLDS = 5
GPUS = ("a100-sxm4-80gb", "h100-sxm", "h200-sxm")

Predictor = Callable[[KernelTable, KernelTable, Ceilings], Array]


def folds(table: KernelTable, count: int = FOLDS) -> Index:
    """The fold of each row: all rows of a shape share one, and shapes are dealt evenly."""
    shapes = table.shapes()
    kinds = int(shapes.max()) + 1
    dealt: Index = np.random.default_rng(0).permutation(kinds) % min(count, kinds)
    return dealt[shapes]


def held_out(table: KernelTable, ceilings: Ceilings, predict: Predictor) -> Array:
    """Seconds of each row, predicted by a fit that never saw its shape."""
    fold = folds(table)
    predicted = np.empty(len(table))
    for number in np.unique(fold):
        test = fold == number
        predicted[test] = predict(table.rows(~test), table.rows(test), ceilings)
    return predicted


def surface_model(train: KernelTable, test: KernelTable, ceilings: Ceilings) -> Array:
    """The model that is shipped: a law with a fitted surface."""
    return fit_kernel_model(train, ceilings).time_s(ceilings, test.dims)


def roofline(train: KernelTable, test: KernelTable, ceilings: Ceilings) -> Array:
    """Datasheet peaks; nothing is fitted."""
    return test.form.roofline(ceilings, test.dims)


def three_constants(train: KernelTable, test: KernelTable, ceilings: Ceilings) -> Array:
    """Compute efficiency, bandwidth efficiency and a fixed time."""

    def seconds(x: Array, table: KernelTable) -> Array:
        usable = Ceilings(
            ceilings.flops_per_s * np.exp(x[0]),
            ceilings.elements_per_s * np.exp(x[1]),
            ceilings.multiprocessors,
        )
        time: Array = table.form.roofline(usable, table.dims) + np.exp(x[2]) * 1e-6
        return time

    best = robust_fit(
        lambda x: np.log(seconds(x, train)),
        np.log([0.7, 0.7, 5.0]),
        np.log(train.time_s),
        np.full(3, 0.1),
    )
    return seconds(best, test)


BASELINES: dict[str, Predictor] = {"roofline": roofline, "three_constants": three_constants}


def bar_rows(table: KernelTable) -> Mask:
    """The rows that the errors of ``evaluate`` are counted on: the sizes of real prefills."""
    size = dict(zip(table.form.dims, table.dims, strict=True))
    if table.form.op == "gemm":
        m_inside = (size["m"] >= 64) & (size["m"] <= 8192)
        return m_inside & (size["n"] >= 256) & (size["k"] >= 256)
    rows: Mask = size["tokens"] >= 256
    if table.form.op == "encoder_attention":
        rows &= (size["head_dim"] >= 64) & (size["head_dim"] <= 80)
    return rows


def evaluate(
    kernels: str | Path, gpus: Iterable[str] = GPUS, dtype: str = "bfloat16"
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """K-fold errors by shape of every table in a folder, each on the rows of its bar.

    Returns: ``{"held_out" | "roofline" | "three_constants": {gpu: {op: errors}}}``, fractions;
    ``held_out`` also has ``coverage``: the share of rows inside the 90 % band when the band of a
    fold comes from the other folds.
    Raises: ProfileError where a folder holds no table of a device, or a malformed one.
    """
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {"held_out": {}}
    found |= {name: {} for name in BASELINES}
    for gpu in gpus:
        ceilings = Ceilings.of(load_hardware(gpu), dtype)
        for op, table in load_kernels(kernels, gpu, dtype).items():
            rows = bar_rows(table)
            bar = table.rows(rows)
            predicted = held_out(table, ceilings, surface_model)
            found["held_out"].setdefault(gpu, {})[op] = {
                **errors_of(predicted[rows], bar.time_s),
                "coverage": cross_coverage(table, predicted, rows),
            }
            for name, predict in BASELINES.items():  # these learn from the rows of the bar alone
                errors = errors_of(held_out(bar, ceilings, predict), bar.time_s)
                found[name].setdefault(gpu, {})[op] = errors
    return found


def cross_coverage(table: KernelTable, predicted: Array, rows: Mask) -> float:
    """The share of ``rows`` inside bands that are made, fold by fold, from the other folds."""
    fold = folds(table)
    inside = 0.0
    for number in np.unique(fold):
        others, test = fold != number, (fold == number) & rows
        if test.any():
            band = band_of(predicted[others], table.time_s[others])
            inside += covered(band, predicted[test], table.time_s[test]) * test.sum()
    return inside / float(rows.sum())


def transfer(kernels: str | Path, source: str, target: str, op: str = "gemm") -> dict[str, Any]:
    """Errors on all bar rows of ``target``, predicted from the calibration of ``source`` alone."""
    table = load_kernels(kernels, source)[op]
    model = fit_kernel_model(table, Ceilings.of(load_hardware(source), "bfloat16"))
    unseen = load_kernels(kernels, target)[op]
    unseen = unseen.rows(bar_rows(unseen))
    predicted = model.time_s(Ceilings.of(load_hardware(target), "bfloat16"), unseen.dims)
    return errors_of(predicted, unseen.time_s)
