"""Fits to the small tables that microbench writes: what was put in comes out again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from aim_cost import HardwareProfile
from aim_cost.devices.hardware import Peak, Quantity
from aim_cost.errors import ProfileError
from aim_cost.ops.formulas import IMPORTANCE_ROWS
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise, Importance
from aim_cost.ops.op import Op
from aim_cost.timing import Calibration, OpTimeModel
from aim_cost.timing.elementwise import default_eager, figures_of
from aim_cost.timing.fit.calibrate import fit_calibration
from aim_cost.timing.fit.elementwise import fit_eager
from aim_cost.timing.fit.table import load_dispatch, load_elementwise

BYTES_PER_S = 2e10
FLOPS_PER_S = 4e11


def quantity(value, unit):
    return Quantity(value, unit, "made up")


PROFILE = HardwareProfile(
    name="measured",
    title="A made-up CPU",
    architecture="cpu",
    release_year=quantity(2026, "year"),
    peak=Peak(
        flops_per_s={"bfloat16": quantity(FLOPS_PER_S, "FLOP/s")},
        memory_bytes=quantity(2**34, "B"),
        memory_bandwidth_bytes_per_s=quantity(BYTES_PER_S, "B/s"),
        multiprocessors=quantity(2, "count"),
    ),
)


def write_elementwise(folder, kinds, noise=0.0):
    """Rows of 40 us a part and a fifth of the bandwidth."""
    draw, rows = np.random.default_rng(0), []
    for kind, parts in kinds.items():
        for size in np.geomspace(1e5, 3e7, 9):
            time_s = (parts * 4e-5 + size / (0.2 * BYTES_PER_S)) * np.exp(noise * draw.normal())
            rows.append({"kind": kind, "bytes": size, "parts": parts, "latency_ms": time_s * 1e3})
    pd.DataFrame(rows).to_csv(folder / "measured_elementwise_bf16.csv", index=False)


def write_gemm(folder, seed=0):
    """120 rows of a device that reaches 90 % of its peak, after 5 us and as m grows to fill it."""
    draw, rows = np.random.default_rng(seed), []
    for _ in range(24):
        n, k = (int(8 * round(2 ** draw.uniform(4, 9.5))) for _ in range(2))
        for m in (16, 64, 200, 500, 1300):
            moved_s = 2 * (m * k + n * k + m * n) / BYTES_PER_S
            time_s = 2 * m * n * k / (0.9 * FLOPS_PER_S) * (1 + 20 / m) + 0.3 * moved_s + 5e-6
            time_s *= np.exp(0.02 * draw.normal())
            rows.append({"m": m, "n": n, "k": k, "latency_ms": time_s * 1e3})
    pd.DataFrame(rows).to_csv(folder / "measured_gemm_bf16.csv", index=False)


def test_a_start_and_a_bandwidth_are_found_again(tmp_path):
    write_elementwise(tmp_path, {"rms_norm": 1, "importance": 14}, noise=0.02)
    elementwise, _ = fit_eager(tmp_path, "measured", BYTES_PER_S)
    for kind in ("rms_norm", "importance"):
        assert elementwise[kind].start_s == pytest.approx(4e-5, rel=0.1)
        assert elementwise[kind].efficiency == pytest.approx(0.2, rel=0.1)
        assert elementwise[kind].low <= elementwise[kind].efficiency <= elementwise[kind].high
        assert "measured_elementwise_bf16.csv, 9 rows" in elementwise[kind].source


def test_kinds_without_rows_keep_their_defaults(tmp_path):
    write_elementwise(tmp_path, {"silu": 1})
    elementwise, dispatch = fit_eager(tmp_path, "measured", BYTES_PER_S)
    defaults, default_dispatch = default_eager()
    assert {kind: elementwise[kind] for kind in defaults} == defaults
    assert dispatch == default_dispatch
    assert elementwise["silu"].kernels == defaults["activation"].kernels


def test_dispatch_is_read_from_its_table(tmp_path):
    rows = [
        {"kind": kind, "latency_ms": 2e-3, "low_ms": 1e-3, "high_ms": 3e-3}
        for kind in ("host_s_per_kernel", "launch_s", "graph_launch_s")
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "measured_dispatch_bf16.csv", index=False)
    _, dispatch = fit_eager(tmp_path, "measured", BYTES_PER_S)
    for figure in (dispatch.host_s_per_kernel, dispatch.launch_s, dispatch.graph_launch_s):
        assert (figure.low, figure.value, figure.high) == pytest.approx((1e-6, 2e-6, 3e-6))
        assert "measured_dispatch_bf16.csv" in figure.source


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "norm"}, "rms_norm"),
        ({"latency_ms": 0.0}, "above zero"),
        ({"parts": float("nan")}, "expected numbers"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path, change, word):
    path = tmp_path / "measured_elementwise_bf16.csv"
    row = {"kind": "add", "bytes": 10, "parts": 1, "latency_ms": 1.0}
    pd.DataFrame([row | change]).to_csv(path, index=False)
    with pytest.raises(ProfileError, match=word):
        load_elementwise(path)


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "measured_dispatch_bf16.csv"
    pd.DataFrame([{"kind": "launch_s", "latency_ms": 1.0}]).to_csv(path, index=False)
    with pytest.raises(ProfileError, match="low_ms, high_ms"):
        load_dispatch(path)


def test_a_sparse_table_is_fitted_without_being_held_at_the_start(tmp_path):
    write_gemm(tmp_path)
    fitted = fit_calibration(tmp_path, PROFILE).kernels["gemm"]
    assert fitted.rows == 120
    assert fitted.held_out["mape"] < 0.06
    assert abs(fitted.held_out["bias"]) < 0.03


def test_a_calibration_with_measured_kinds_survives_its_file(tmp_path):
    write_gemm(tmp_path)
    write_elementwise(tmp_path, {"silu": 1, "tower_add": 1})
    calibration = fit_calibration(tmp_path, PROFILE)
    calibration.save(tmp_path / "here.yaml")
    again = Calibration.from_yaml(tmp_path / "here.yaml")
    assert again.elementwise == calibration.elementwise
    assert again.dispatch == calibration.dispatch


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_gemm(folder)
    write_elementwise(folder, {"silu": 1, "importance": 14, "tower_add": 1})
    return OpTimeModel.from_calibration(fit_calibration(folder, PROFILE), PROFILE)


def test_an_op_is_priced_by_its_own_kind_else_by_the_general_one(prices):
    silu = Kernels("llm.layers", 2).elementwise("silu", Elementwise.SILU, 10**6, 10**6)
    gelu = Kernels("llm.layers", 2).elementwise("gelu", Elementwise.GELU, 10**6, 10**6)
    assert prices.time(silu).time_s == pytest.approx(4e-5 + 4e6 / (0.2 * BYTES_PER_S), rel=0.02)
    default = default_eager()[0]["activation"]
    rate = default.efficiency * BYTES_PER_S
    assert prices.time(gelu).time_s == pytest.approx(4e6 / rate, rel=0.02)


def test_each_part_of_an_op_starts_anew(prices):
    kind = Importance(tokens=14 * IMPORTANCE_ROWS, batch=1, heads=14, head_dim=64)
    score = Op("importance", "importance", 0, 10**6, 10**6, kind, 0)
    fewer = replace(score, kind=replace(kind, tokens=IMPORTANCE_ROWS + 1))
    gap = prices.time(score).time_s - prices.time(fewer).time_s
    dispatch = prices.calibration.dispatch
    launches = dispatch.launch_s.value - dispatch.graph_launch_s.value
    kernels = prices.calibration.elementwise["importance"].kernels
    assert gap == pytest.approx(12 * (4e-5 + kernels * launches), rel=0.02)
    assert prices.kernels(score) == 7 * prices.kernels(fewer) == 14 * kernels


def test_every_kind_has_a_default():
    defaults = default_eager()[0]
    assert {kind.general for kind in Elementwise} == set(defaults)
    assert all(figures_of(defaults, kind) is defaults[kind.general] for kind in Elementwise)
