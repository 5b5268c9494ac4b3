"""The bars of the time models on shapes, devices and prefills that no fit has seen.

All rows and all five folds of every table; about fifteen seconds on one core.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from aim_cost import load_hardware
from aim_cost.timing import Calibration, OpTimeModel, load_calibration
from aim_cost.timing.fit.band import covered
from aim_cost.timing.fit.calibrate import fit_calibration
from aim_cost.timing.fit.evaluate import bar_rows, evaluate, held_out, transfer
from aim_cost.timing.fit.prefills import mean_error, published_prefills
from aim_cost.timing.fit.table import load_kernels
from aim_cost.timing.form import Ceilings

ROOT = Path(__file__).resolve().parents[2]
KERNELS = Path(os.environ.get("AIM_SHARED", ROOT.parent / "shared")) / "data" / "kernels"
A100, H100, H200 = "a100-sxm4-80gb", "h100-sxm", "h200-sxm"

needs_tables = pytest.mark.skipif(not KERNELS.is_dir(), reason=f"no kernel tables at {KERNELS}")


@pytest.fixture(scope="module")
def evaluation():
    pytest.importorskip("pyarrow")
    return evaluate(KERNELS)


@needs_tables
@pytest.mark.parametrize(
    ("gpu", "op", "figure", "bar"),
    [
        (A100, "gemm", "mape", 0.08),
        (H100, "gemm", "mape", 0.06),
        (H200, "gemm", "mape", 0.06),
        (A100, "gemm", "median", 0.04),
        (H100, "gemm", "median", 0.04),
        (H200, "gemm", "median", 0.04),
        (A100, "causal_attention", "median", 0.06),
        (H100, "causal_attention", "median", 0.06),
        (H200, "causal_attention", "median", 0.06),
        (H100, "encoder_attention", "median", 0.08),
        (H200, "encoder_attention", "median", 0.08),
    ],
)
def test_unseen_shapes_are_priced_within_the_bar(evaluation, gpu, op, figure, bar):
    assert evaluation["held_out"][gpu][op][figure] <= bar


@needs_tables
def test_bands_cover_what_they_promise_and_baselines_are_worse(evaluation):
    for gpu, ops in evaluation["held_out"].items():
        for op, errors in ops.items():
            assert 0.85 <= errors["coverage"] <= 0.95
            assert errors["n"] == evaluation["roofline"][gpu][op]["n"] > 3000
            assert abs(errors["bias"]) < 0.01
            for baseline in ("roofline", "three_constants"):
                assert errors["mape"] < 0.7 * evaluation[baseline][gpu][op]["mape"]


@needs_tables
def test_shipped_figures_are_those_of_the_evaluation(evaluation):
    for gpu, ops in evaluation["held_out"].items():
        shipped = load_calibration(gpu).kernels
        for op, errors in ops.items():
            for key in ("mape", "median", "p90", "coverage"):
                assert shipped[op].held_out[key] == pytest.approx(errors[key], abs=0.002)


@needs_tables
def test_h200_is_priced_from_the_calibration_of_h100_alone():
    assert transfer(KERNELS, H100, H200)["mape"] <= 0.08
    model = OpTimeModel.from_calibration(load_calibration(H100), load_hardware(H200))
    table = load_kernels(KERNELS, H200)["gemm"]
    kernels = model.calibration.kernels["gemm"].model
    predicted = kernels.time_s(model.ceilings, table.dims)  # every row, tiny ones included
    assert np.abs(predicted / table.time_s - 1).mean() <= 0.08


@needs_tables
def test_no_held_out_shape_is_in_the_fit_that_prices_it():
    ceilings = Ceilings.of(load_hardware(H100), "bfloat16")
    fixed = {"gemm": (1, 2), "causal_attention": (2, 3, 4), "encoder_attention": (2, 3, 4)}
    for op, table in load_kernels(KERNELS, H100).items():
        priced = []

        def spy(train, test, _, columns=fixed[op], priced=priced):
            seen, unseen = (
                {tuple(row) for row in np.stack([part.dims[c] for c in columns], axis=1)}
                for part in (train, test)
            )
            assert seen and unseen and not seen & unseen
            priced.append(len(test))
            return test.time_s

        assert (held_out(table, ceilings, spy) == table.time_s).all()
        assert sum(priced) == len(table) and len(priced) == 5


@needs_tables
def test_shipped_calibrations_come_from_the_tables_and_nothing_else():
    calibration = fit_calibration(KERNELS, H100)
    shipped = load_calibration(H100)
    ceilings = Ceilings.of(load_hardware(H100), "bfloat16")
    for op, table in load_kernels(KERNELS, H100).items():
        sample = table.rows(np.arange(0, len(table), 37))
        fresh, old = (
            c.kernels[op].model.time_s(ceilings, sample.dims) for c in (calibration, shipped)
        )
        assert fresh == pytest.approx(old, rel=0.02)
        rows = bar_rows(table)
        band = shipped.kernels[op].model.band
        predicted = shipped.kernels[op].model.time_s(ceilings, table.rows(rows).dims)
        assert 0.85 <= covered(band, predicted, table.rows(rows).time_s) <= 0.97
    assert isinstance(calibration, Calibration)


def test_prefills_that_others_measured_are_priced_within_the_bar():
    rows = published_prefills(load_calibration(A100))
    json.dumps([vars(row) for row in rows])  # as aim-cost evaluate prints them
    assert len(rows) == 12
    assert mean_error(rows) <= 0.10
    assert max(abs(row.error) for row in rows) <= 0.20
    assert sum(row.low_s <= row.measured_s <= row.high_s for row in rows) >= 6
