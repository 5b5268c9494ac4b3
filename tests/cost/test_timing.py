"""Times of ops: never falling with tokens, sane where nothing was measured, and read strictly."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aim_cost import load_hardware
from aim_cost.errors import ProfileError, SpecError
from aim_cost.imports import MissingLibraryError
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import BatchedProduct, CausalAttention, Elementwise, EncoderAttention
from aim_cost.ops.op import Op
from aim_cost.timing import Calibration, OpTimeModel, calibration_names, load_calibration
from aim_cost.timing.fit.table import load_kernels, load_table

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("a100-sxm4-80gb", "h100-sxm", "h200-sxm")
MODELS = {name: OpTimeModel.from_calibration(load_calibration(name)) for name in NAMES}

sizes = st.integers(1, 200_000)
widths = st.integers(1, 160_000)
names = st.sampled_from(NAMES)


def gemm(m, n, k):
    return Kernels("llm.layers", 2).linear("q_proj", m, k, n)


def attention(tokens, batch, heads, group, head_dim, kind=CausalAttention):
    sizes = (batch, tokens, heads * group, heads, head_dim)
    return Kernels("llm.layers", 2).attention("sdpa", kind, *sizes)[0]


def test_every_kernel_table_has_a_shipped_calibration():
    assert calibration_names() == sorted(NAMES)
    for name in NAMES:
        calibration = load_calibration(name)
        assert calibration.hardware == name
        assert "aiconfigurator" in calibration.source
        assert calibration.kernels["gemm"].rows == 35742
        assert 0.85 <= calibration.kernels["gemm"].held_out["coverage"] <= 0.95
        assert len(calibration.to_yaml()) < 50_000


@given(names, sizes, sizes, widths, widths)
def test_gemm_time_never_falls_as_rows_grow(name, few, many, n, k):
    low, high = sorted((few, many))
    fewer, more = (MODELS[name].time(gemm(m, n, k)).time_s for m in (low, high))
    assert fewer <= more * (1 + 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gemm_time_never_falls_along_every_row_count(name):
    m = np.arange(1, 20_000)
    for n, k in (
        (4096, 4096),
        (18944, 3584),
        (3584, 18944),
        (256, 65536),
        (896, 4864),
        (1152, 588),
    ):
        times = MODELS[name].time(gemm(m, n, k)).time_s
        assert (np.diff(times) >= -1e-9 * times[:-1]).all()


@given(
    names,
    sizes,
    sizes,
    st.integers(1, 64),
    st.integers(1, 32),
    st.sampled_from([1, 2, 4, 7]),
    st.sampled_from([64, 72, 80, 128]),
    st.sampled_from([CausalAttention, EncoderAttention]),
)
def test_attention_time_never_falls_as_tokens_grow(
    name, few, many, batch, heads, group, head_dim, kind
):
    low, high = sorted((few, many))
    fewer, more = (
        MODELS[name].time(attention(tokens, batch, heads, group, head_dim, kind)).time_s
        for tokens in (low, high)
    )
    assert fewer <= more * (1 + 1e-9)


@given(names, sizes, widths, widths)
def test_the_band_holds_the_time_and_time_is_no_faster_than_the_datasheet_allows(name, m, n, k):
    model = MODELS[name]
    op = gemm(m, n, k)
    time = model.time(op)
    assert 0 < time.low_s <= time.time_s <= time.high_s
    # Small operands may come from the cache, faster than memory; compute has no such way.
    assert time.time_s > 0.9 * op.flops / model.ceilings.flops_per_s


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("edge", "beyond"),
    [
        ((32768, 4096, 4096), (327680, 4096, 4096)),
        ((4096, 65536, 4096), (4096, 655360, 4096)),
        ((4096, 4096, 65536), (4096, 4096, 655360)),
        ((1, 65536, 4096), (1, 655360, 4096)),
    ],
)
def test_gemm_ten_times_beyond_the_tables_scales_as_the_roofline(name, edge, beyond):
    model = MODELS[name]
    form = model.calibration.kernels["gemm"].model.form
    times = [model.time(gemm(*size)) for size in (edge, beyond)]
    assert [time.extrapolated for time in times] == [False, True]
    bounds = [
        form.roofline(model.ceilings, tuple(np.array([float(x)]) for x in size))[0]
        for size in (edge, beyond)
    ]
    growth = times[1].time_s / times[0].time_s
    assert 1 / 3 < growth / (bounds[1] / bounds[0]) < 3


@pytest.mark.parametrize("name", NAMES)
def test_attention_ten_times_beyond_the_tables_scales_as_the_square_of_tokens(name):
    edge, beyond = (MODELS[name].time(attention(t, 1, 8, 4, 128)) for t in (16384, 163840))
    assert (edge.extrapolated, beyond.extrapolated) == (False, True)
    assert 100 / 3 < beyond.time_s / edge.time_s < 300


def test_arrays_and_lists_of_ops_give_what_single_ops_give():
    model = MODELS["h100-sxm"]
    rows = np.array([[1, 700, 1669], [2049, 6272, 40000]])
    table = model.time(gemm(rows, 3584, 18944))
    assert table.time_s.shape == table.extrapolated.shape == rows.shape
    ops = [gemm(int(m), 3584, 18944) for m in rows.ravel()]
    make = Kernels("llm.layers", 2)
    ops += [
        make.elementwise("input_norm", Elementwise.RMS_NORM, 10**6, 10**6),
        *make.attention("eager", CausalAttention, 1, 500, 14, 2, 64),
        attention(729, 32, 16, 1, 72, EncoderAttention),
        attention(729, 1, 4, 7, 128),
        Op("match_0", "merge", 10**9, 10**6, 10**6, BatchedProduct(8, 98, 98, 3584)),
    ]
    together = model.times(ops)
    for place, op in enumerate(ops):
        alone = model.time(op)
        for field in ("time_s", "low_s", "high_s", "extrapolated"):
            assert getattr(alone, field) == pytest.approx(getattr(together, field)[place])
    assert table.time_s.ravel() == pytest.approx(together.time_s[: rows.size])


def test_what_no_table_holds_is_flagged_and_has_a_wider_band():
    a100 = MODELS["a100-sxm4-80gb"]
    vision = a100.time(attention(729, 32, 16, 1, 72, EncoderAttention))
    assert vision.extrapolated  # there is no encoder table of an A100
    assert vision.high_s / vision.low_s > np.exp(2 * 0.33)
    batched = a100.time(
        Kernels("llm.layers", 2).attention("eager", CausalAttention, 1, 1024, 32, 32, 128)[0]
    )
    assert batched.extrapolated


def test_a_calibration_on_another_device_is_inherited_with_a_wider_band():
    calibration = load_calibration("h100-sxm")
    own = OpTimeModel.from_calibration(calibration)
    op = gemm(2048, 4096, 4096)
    for hardware, dtype in (
        ("h200-sxm", "bfloat16"),
        ("l40s", "bfloat16"),
        ("h100-sxm", "float32"),
    ):
        other = OpTimeModel.from_calibration(calibration, load_hardware(hardware), dtype)
        time, narrow = other.time(op), own.time(op)
        assert other.inherited and not own.inherited
        assert time.high_s / time.low_s > 1.2 * narrow.high_s / narrow.low_s
    half = OpTimeModel.from_calibration(calibration, load_hardware("h100-sxm"), "float16")
    assert not half.inherited
    assert half.time(op) == own.time(op)


def test_eager_execution_pays_for_kernels_and_host():
    calibration = load_calibration("h100-sxm")
    make = Kernels("llm.layers", 2)
    ops = [
        make.elementwise("input_norm", Elementwise.RMS_NORM, 10**6, 10**6),
        gemm(128, 1024, 1024),
    ]
    eager, graph, fused = (
        OpTimeModel.from_calibration(calibration, execution=name)
        for name in ("eager", "cuda-graph", "fused")
    )
    times = [model.times(ops).time_s.sum() for model in (eager, graph, fused)]
    assert times[0] > times[1] > times[2]
    assert eager.kernels(ops[0]) == 8 and fused.kernels(ops[0]) == 1
    per_kernel = calibration.dispatch.host_s_per_kernel.value
    assert eager.host_s(ops).sum() == pytest.approx(9 * per_kernel)
    assert graph.host_s(ops).sum() == fused.host_s(ops).sum() == 0
    with pytest.raises(SpecError, match="execution"):
        OpTimeModel.from_calibration(calibration, execution="lazy")


def test_a_calibration_survives_its_file(tmp_path):
    calibration = load_calibration("h100-sxm")
    path = tmp_path / "mine.yaml"
    calibration.save(path)
    again = Calibration.from_yaml(path)
    assert again.to_yaml() == calibration.to_yaml()
    mine, shipped = (OpTimeModel.from_calibration(c) for c in (again, calibration))
    assert mine.time(gemm(1669, 3584, 3584)) == shipped.time(gemm(1669, 3584, 3584))


def test_a_calibration_without_gemm_is_refused():
    calibration = load_calibration("h100-sxm")
    kernels = {"causal_attention": calibration.kernels["causal_attention"]}
    with pytest.raises(ProfileError, match="gemm"):
        OpTimeModel.from_calibration(replace(calibration, kernels=kernels))


def _edit(path, value):
    def edit(tree):
        *parents, last = path
        for key in parents:
            tree = tree[key]
        if value is None:
            del tree[last]
        else:
            tree[last] = value

    return edit


GEMM = ("kernels", "gemm")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("hardware",), None, "hardware"),
        (("extra",), 1, "extra"),
        ((*GEMM, "parameters", "log_start_us"), None, "parameters"),
        ((*GEMM, "parameters", "log_start_us"), "1", "parameters"),
        ((*GEMM, "parameters", "log_start_us"), float("nan"), "no finite number"),
        ((*GEMM, "parameters", "made_up"), 1.0, "made_up"),
        ((*GEMM, "surface", "log_ratio"), [[0.0, 1.0]], "log_ratio"),
        ((*GEMM, "surface", "log2_knots"), [[0, 1]], "log2_knots"),
        ((*GEMM, "sizes", "m"), [8, 2], "sizes.m"),
        ((*GEMM, "band", "low"), [0.0], "band"),
        ((*GEMM, "rows"), 1.5, "rows"),
        (("kernels", "conv"), {}, "conv"),
        (("elementwise", "add"), None, "elementwise.add"),
        (("elementwise", "add", "efficiency"), 2.0, "elementwise.add"),
        (("elementwise", "add", "source"), "nobody", "source"),
        (("dispatch", "launch_s", "value"), "25 us", "launch_s"),
        (("dispatch", "host_s_per_kernel"), None, "host_s_per_kernel"),
    ],
)
def test_a_broken_calibration_is_refused_and_named(tmp_path, path, value, message):
    tree = yaml.safe_load(load_calibration("a100-sxm4-80gb").to_yaml())
    _edit(path, value)(tree)
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ProfileError, match=message):
        Calibration.from_yaml(file)


def test_unknown_or_unreadable_calibrations_say_what_to_do(tmp_path):
    with pytest.raises(ProfileError, match="h200-sxm"):
        load_calibration("h300")
    with pytest.raises(ProfileError, match="readable"):
        load_calibration(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ProfileError, match="YAML"):
        load_calibration(tmp_path / "bad.yaml")


CSV = "m,n,k,latency_ms\n64,256,256,0.01\n128,256,512,0.02\n"


def test_tables_may_be_csv(tmp_path):
    (tmp_path / "cpu_generic_gemm_fp32.csv").write_text(CSV)
    table = load_kernels(tmp_path, "cpu-generic", "float32")["gemm"]
    assert table.time_s == pytest.approx([1e-5, 2e-5])
    assert [size.tolist() for size in table.dims] == [[64, 128], [256, 256], [256, 512]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CSV.replace("latency_ms", "ms"), "latency_ms"),
        (CSV.replace("0.02", "-0.02"), "latency_ms, row 1"),
        (CSV.replace("0.02", "nan"), "latency_ms, row 1"),
        (CSV.replace("128", "128.5"), "m, row 1"),
        (CSV.replace("128", "many"), "m"),
        ("m,n,k,latency_ms\n", "one row"),
        ("", "readable"),
    ],
)
def test_a_broken_table_is_refused_and_named(tmp_path, text, message):
    file = tmp_path / "x_gemm_bf16.csv"
    file.write_text(text)
    with pytest.raises(ProfileError, match=message):
        load_table(file, "gemm")


def test_a_folder_without_tables_says_which_it_looks_for(tmp_path):
    with pytest.raises(ProfileError, match=r"h100_sxm_gemm_bf16.parquet"):
        load_kernels(tmp_path, "h100-sxm")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "h100_sxm_gemm_bf16.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingLibraryError, match=r"aim-efficiency\[parquet\]', or convert"):
        load_kernels(tmp_path, "h100-sxm")


def test_predicting_imports_no_pandas():
    code = "import sys, aim_cost.timing; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
