"""The fused score by its law, and by a table of a device that has timed it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aim_cost import Case, Execution, Schedule, Workload, load_hardware
from aim_cost.errors import ProfileError
from aim_cost.ops.reduction import fused_importance_ops
from aim_cost.timing.calibration import load_calibration
from aim_cost.timing.fit.calibrate import fit_kernels
from aim_cost.timing.fit.table import load_table, table_name
from aim_cost.timing.form import Ceilings
from aim_cost.timing.fused_score import FUSED_SCORE
from aim_cost.timing.op_time import OpTimeModel

H100 = load_hardware("h100-sxm")
PRUNE = Schedule.parse("prune linear:14:22")


def seconds(tokens, heads=28, batch=1):
    dims = tuple(np.array([float(x)]) for x in (tokens, batch, heads, 4, 128))
    return float(FUSED_SCORE.law(FUSED_SCORE.start, Ceilings.of(H100, "bfloat16"), dims)[0])


def test_the_law_is_tiles_times_instructions():
    # (803 + 5 x 974) x 1.15 clocks a tile of 64 x 64, below the diagonal, 132 x 1.83 GHz
    long = 28 * 37733**2 / 2 / 64**2 * (803 + 5 * 974) * 1.15 / (132 * 1.83e9)
    assert seconds(37733) == pytest.approx(long, rel=0.01)
    assert 0.12 < seconds(37733) < 0.14  # 77 ms by its products alone
    assert seconds(37733, heads=14) == pytest.approx(seconds(37733) / 2, rel=0.01)
    assert seconds(1) >= 7 * 3e-6 * 0.99  # seven launches
    assert all(seconds(n) <= seconds(n + 1) for n in range(1, 300))


def price(calibration=None, mode="eager", hardware=H100):
    execution = Execution(scoring="fused", mode=mode)
    case = Case("llava-onevision-qwen2-7b", Workload(100, frames=32), hardware, execution)
    if calibration is not None:
        case = Case(case.model, case.workload, H100, execution, calibration)
    return case.price(PRUNE).time("importance")


def test_without_a_table_the_price_is_extrapolated_and_its_band_wide():
    found = price()
    assert found.extrapolated == 1
    assert found.high_s > 1.2 * found.time_s
    assert price(mode="cuda-graph").time_s <= found.time_s


@pytest.fixture
def tables(tmp_path):
    """A device on which a tile takes twice the clocks."""
    rows = [(t, h) for t in (64, 256, 1024, 2048, 4096, 8192) for h in (8, 14, 28)]
    columns = {
        "sequence_length": [t for t, _ in rows],
        "batch_size": 1,
        "num_heads": [h for _, h in rows],
        "num_key_value_heads": 2,
        "head_dim": 128,
        "latency_ms": [1e3 * (2 * seconds(t, h) - 21e-6) for t, h in rows],
    }
    path = tmp_path / f"{table_name('h100-sxm', 'fused_importance')}.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_a_table_of_the_device_prices_it(tables):
    fitted = fit_kernels(load_table(tables, "fused_importance"), Ceilings.of(H100, "bfloat16"))
    assert fitted.held_out["mape"] < 0.02
    dims = tuple(np.array([float(x)]) for x in (3000, 1, 14, 2, 128))
    times = fitted.model.times(Ceilings.of(H100, "bfloat16"), dims)
    assert times.time_s[0] == pytest.approx(2 * seconds(3000, 14), rel=0.03)
    assert not times.extrapolated[0]


def test_a_device_without_a_clock_is_refused():
    silent = replace(H100, peak=replace(H100.peak, boost_clock_hz=None))
    model = OpTimeModel.from_calibration(load_calibration("h100-sxm"), silent)
    dims = tuple(np.array([float(x)]) for x in (300, 1, 28, 4, 128))
    with pytest.raises(ProfileError, match="boost_clock_hz"):
        model._fused_score(dims)


def test_too_few_shapes_for_a_fit_are_an_error(tables):
    frame = pd.read_csv(tables)
    frame[frame["num_heads"] == 8].to_csv(tables, index=False)
    with pytest.raises(ProfileError, match="shapes"):
        fit_kernels(load_table(tables, "fused_importance"), Ceilings.of(H100, "bfloat16"))


def test_a_fitted_table_is_what_prices_the_op(tables):
    fitted = fit_kernels(load_table(tables, "fused_importance"), Ceilings.of(H100, "bfloat16"))
    shipped = load_calibration("h100-sxm")
    measured = replace(shipped, kernels={**shipped.kernels, "fused_importance": fitted})
    (op,) = fused_importance_ops(0, 1, 3000, 14, 2, 128, 2)
    counted, timed = (
        OpTimeModel.from_calibration(calibration, execution="cuda-graph").time(op)
        for calibration in (shipped, measured)
    )
    assert counted.extrapolated and not timed.extrapolated
    assert timed.time_s == pytest.approx(2 * counted.time_s, rel=0.03)


def test_a_score_starts_seven_kernels():
    model = OpTimeModel.from_calibration(load_calibration("h100-sxm"))
    (op,) = fused_importance_ops(0, 1, 3000, 28, 4, 128, 2)
    assert model.kernels(op) == 7
