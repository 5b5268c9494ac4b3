"""Microbench: rows of the sizes that are asked for, medians of quiet runs, files that fit."""

import re

import pandas as pd
import pytest
import torch
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from aim_cost import Execution, ModelSpec, Schedule, Workload, load_hardware
from aim_cost.conventions.executed import build_executed
from aim_cost.ops.kind import Elementwise, Importance, Product
from aim_cost.timing import OpTimeModel
from aim_cost.timing.elementwise import measured_as
from aim_cost.timing.fit.calibrate import fit_calibration
from aim_cost.timing.fit.table import load_dispatch, load_elementwise, load_kernels, table_path
from aim_runtime.errors import MeasurementError
from aim_runtime.kernels import dispatch as dispatch_module
from aim_runtime.kernels import microbench as module
from aim_runtime.kernels import probe as probe_module
from aim_runtime.kernels.calibrated import cache_folder, present_calibration
from aim_runtime.kernels.case import Case, Pool
from aim_runtime.kernels.elementwise import elementwise_cases
from aim_runtime.kernels.microbench import Sample, microbench
from aim_runtime.kernels.products import attention_cases, gemm_cases
from aim_runtime.kernels.profile_file import profile_yaml
from aim_runtime.kernels.sizes import Sizes, every_other, spread
from tests.runtime.models import tiny_llava_15
from tests.runtime.support import tiny_llava

CPU = torch.device("cpu")
WORKLOAD = Workload(text_tokens=12, frames=4)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(probe_module, "GEMM_SIZE", {"cpu": 128})
    monkeypatch.setattr(probe_module, "COPY_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(module, "_COLD_BYTES", 2**20)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return ModelSpec.from_hf_config(tiny_llava().config.to_dict(), name="tiny")


def run_all(cases: list[Case]) -> list[object]:
    results = []
    with torch.inference_mode():
        for case in cases:
            pool = Pool(CPU, torch.float32, case.weights, case.activations)
            results.append(case.make(pool)())
    return results


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_measured_inside_graphs_and_its_host_apart(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "present_hardware", probe_module.probe)
    monkeypatch.setattr(probe_module, "GEMM_SIZE", {"cuda": 1024})
    monkeypatch.setattr(probe_module, "COPY_BYTES", {"cuda": 2**26})
    microbench(spec, WORKLOAD, tmp_path, torch.device("cuda"), seconds=5)
    dispatch = load_dispatch(table_path(tmp_path, "measured", "dispatch"))
    assert dispatch["host_s_per_kernel"][0] > dispatch["graph_launch_s"][0] > 1e-7
    profile = load_hardware(tmp_path / "hardware.yaml")
    assert fit_calibration(tmp_path, profile).kernels["gemm"].rows > 50


def test_the_host_time_of_a_kernel_is_that_of_a_layer_shared_out(spec, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    ticks = iter(range(1000))
    monkeypatch.setattr(dispatch_module.time, "perf_counter", lambda: float(next(ticks)))
    (each,) = set(dispatch_module._host_s(spec, CPU, torch.float32))
    # two norms, rotary; seven products, attention, cache, two sums, silu, gate
    assert each == pytest.approx(1 / (15 * (2 * 8 + 10 + 13)))


def test_tables_price_a_whole_prefill(spec, tmp_path):
    paths = microbench(spec, WORKLOAD, tmp_path, CPU, "float32", seconds=1)
    assert {path.name.split(".")[0] for path in paths} == {
        "hardware",
        "measured_gemm_fp32",
        "measured_causal_attention_fp32",
        "measured_encoder_attention_fp32",
        "measured_elementwise_fp32",
        "measured_dispatch_fp32",
    }
    for name in ("causal_attention", "encoder_attention"):
        rows = pd.read_parquet(table_path(tmp_path, "measured", name, "float32"))
        assert set(rows["attention_backend"]) == {"flash"}
    profile = load_hardware(tmp_path / "hardware.yaml")
    model = OpTimeModel.from_calibration(
        fit_calibration(tmp_path, profile, "float32"), profile, "float32"
    )
    schedule = Schedule.parse("merge 0.5, prune linear:2:4")
    execution = Execution(dtype="float32")
    graph = build_executed(spec, WORKLOAD, schedule.resolve(spec, WORKLOAD), execution)
    times = model.times(graph.ops)
    assert (times.time_s > 0).all()
    host_s = model.host_s(graph.ops).sum()
    assert host_s < 0.01 * times.time_s.sum(), "a CPU computes in step: nothing to add"
    kinds = load_elementwise(table_path(tmp_path, "measured", "elementwise", "float32"))
    assert kinds.keys() >= {
        measured_as(op.kind) for op in graph if isinstance(op.kind, Elementwise | Importance)
    }


def test_sizes_reach_the_unreduced_prompt(spec):
    sizes = Sizes.of(spec, WORKLOAD)
    assert sizes.images == (1, 2, 3, 4)
    assert sizes.tokens[-1] >= 4 * 9 + 1 + 12
    assert sorted(set(sizes.tokens)) == list(sizes.tokens)
    assert spread(1, 3, 9) == (1, 2, 3)
    assert every_other((1, 2, 3, 4)) == (2, 4)


def test_a_product_has_the_shape_of_its_row(spec):
    cases = gemm_cases(spec, Sizes.of(spec, WORKLOAD), 4)
    vision = spec.vision
    for case, result in zip(cases, run_all(cases), strict=True):
        m, n, k = case.kind.dims
        assert isinstance(result, torch.Tensor)
        assert result.numel() == m * n
        assert case.flops == 2 * m * n * k
    assert (4 * 25, vision.hidden_size, 3 * 15**2) in [case.kind.dims for case in cases]
    assert len({case.kind for case in cases}) == len(cases)


def test_attention_has_the_shape_of_its_row(spec):
    cases = attention_cases(spec, Sizes.of(spec, WORKLOAD), 4)
    for case, (result, _) in zip(cases, run_all(cases), strict=True):
        kind = case.kind
        assert result.shape == (kind.batch, kind.tokens, kind.heads, kind.head_dim)
        assert list(case.to_row(0.5, 3).values()) == [*kind.dims, 500.0, 3]
    kinds = {case.table for case in cases}
    assert kinds == {"causal_attention", "encoder_attention"}


def test_bytes_are_those_of_the_graph(spec):
    sizes = Sizes((47,), (4,))
    rows = {(c.kind.kind, c.kind.bytes) for c in elementwise_cases(spec, sizes, 2)}
    workload = Workload(text_tokens=47 - 37, frames=4)
    trace = Schedule().resolve(spec, workload)
    for op in build_executed(spec, workload, trace, Execution()):
        if isinstance(op.kind, Elementwise):
            assert (op.kind, op.bytes) in rows


def test_every_elementwise_case_runs(spec):
    cases = elementwise_cases(spec, Sizes.of(spec, WORKLOAD), 4, attention="eager")
    assert len(run_all(cases)) == len(cases)
    assert "softmax" in {case.kind.kind for case in cases}


def test_every_elementwise_case_of_an_image_model_runs():
    spec = ModelSpec.from_hf_config(tiny_llava_15().config.to_dict(), name="tiny")
    sizes = Sizes.of(spec, Workload(text_tokens=12, image_tokens=18))
    cases = elementwise_cases(spec, sizes, 4)
    assert len(run_all(cases)) == len(cases)
    kinds = {case.kind.kind for case in cases}
    assert kinds >= {"gelu", "normalise", "average"}
    assert "bilinear" not in kinds


def test_hidden_states_of_the_tower_lie_channel_by_channel(llava):
    """Why layer_norm and tower_add are measured on a transposed tensor."""
    strides = []
    tower = llava.model.vision_tower
    assert isinstance(tower, SiglipVisionModel)
    norms = [m for m in tower.modules() if isinstance(m, torch.nn.LayerNorm)]
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, args: strides.append(args[0].stride()))
    tower(torch.randn(2, 3, 75, 75))
    assert len(strides) >= 4
    assert {stride[1] for stride in strides} == {1}


def make_case(rows: int) -> Case:
    """A product that does nothing, told from others by its rows."""
    return Case(Product(rows, 1, 1), 1, 1, 0, 0, 0, make=lambda pool: lambda: None)


def test_medians_leave_out_disturbed_runs_unless_all_are():
    cases = [make_case(1), make_case(2), make_case(3)]
    samples = {
        0: [Sample(1.0, False), Sample(9.0, True), Sample(3.0, False)],
        1: [Sample(5.0, True), Sample(7.0, True)],
        2: [],
    }
    rows = module._tables(cases, samples)["gemm"]
    assert [(r["m"], r["latency_ms"], r["repeats"]) for r in rows] == [
        (1, 2000.0, 2),
        (2, 6000.0, 2),
    ]


def test_the_first_round_warms_up_and_short_kernels_run_more_often(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    short, long = make_case(1), make_case(2)
    seen = {short.kind: 0, long.kind: 0}

    def sample(case):
        seen[case.kind] += 1
        return Sample(1e-4 if case is short else 1.0, False)

    samples = module._rounds([short, long], sample, until=0.0)
    assert [len(samples[place]) for place in (0, 1)] == [3, 1]
    assert seen == {short.kind: 4, long.kind: 2}


def test_an_interrupt_keeps_what_was_measured(capsys):
    calls = iter(range(100))

    def sample(case):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return Sample(1.0, False)

    samples = module._rounds([make_case(1), make_case(1)], sample, until=1e12)
    assert sum(len(taken) for taken in samples.values()) == 3
    assert "interrupted" in capsys.readouterr().err


def test_too_short_a_time_is_refused(spec, tmp_path):
    with pytest.raises(MeasurementError, match="more seconds"):
        microbench(spec, WORKLOAD, tmp_path, CPU, "float32", seconds=1e-6)
    assert not list(tmp_path.iterdir())


def test_other_devices_are_refused(spec, tmp_path):
    with pytest.raises(MeasurementError, match="cuda or cpu"):
        microbench(spec, WORKLOAD, tmp_path, torch.device("meta"))


def test_csv_where_pyarrow_is_missing(monkeypatch, tmp_path):
    def missing(self, **kwargs):
        raise ImportError("pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    frame = pd.DataFrame([{"m": 1, "n": 2, "k": 3, "latency_ms": 0.5}])
    path = module._write(frame, tmp_path / "measured_gemm_bf16")
    assert path.suffix == ".csv"
    assert load_kernels(tmp_path, "measured")["gemm"].time_s.tolist() == [5e-4]


def test_weights_come_from_other_memory_each_time_and_activations_from_the_same():
    pool = Pool(CPU, torch.float32, 1024, 1024)
    first, second = pool.weights(16, 16), pool.weights(16, 16)
    assert first.data_ptr() != second.data_ptr()
    places = []
    for _ in range(2):
        pool.start()
        places.append([pool.activations(8, 8).data_ptr() for _ in range(2)])
    assert places[0] == places[1]
    assert len(set(places[0])) == 2


def test_a_measured_profile_survives_its_file(tmp_path):
    profile = probe_module.probe(CPU, "float32")
    (tmp_path / "hardware.yaml").write_text(profile_yaml(profile))
    assert load_hardware(tmp_path / "hardware.yaml") == profile


def test_the_calibration_of_this_device_is_made_once(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    speed = [1.2]
    monkeypatch.setattr("aim_runtime.kernels.calibrated.speed_since", lambda *_: speed[0])
    profile, calibration = present_calibration(spec, WORKLOAD, CPU, "float32", seconds=1)
    monkeypatch.setattr("aim_runtime.kernels.calibrated.microbench", None)
    again = present_calibration(spec, WORKLOAD, CPU, "float32")
    assert again[0] == profile
    assert again[1].to_yaml() == calibration.to_yaml()
    assert calibration.hardware == profile.name == "measured"
    folder = cache_folder(spec, WORKLOAD, CPU, "float32")
    assert re.fullmatch(r"cpu-float32-[0-9a-f]{12}", folder.name)
    longer = Workload(text_tokens=13, frames=4)
    assert cache_folder(spec, longer, CPU, "float32") != folder

    speed[0] = 3.0  # the device was busy then: what was measured is not believed
    monkeypatch.setattr(
        "aim_runtime.kernels.calibrated.microbench", lambda *_: pytest.fail("again")
    )
    with pytest.raises(pytest.fail.Exception, match="again"):
        present_calibration(spec, WORKLOAD, CPU, "float32")
