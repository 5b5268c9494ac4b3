"""A campaign on the present device: the real measurements, on models of a few layers."""

import json
import signal
from dataclasses import replace

import pytest
import torch

from aim_cost.schedules.schedule import Schedule
from aim_runtime.campaigns import runner as module
from aim_runtime.campaigns.campaign import run_campaign
from aim_runtime.campaigns.file import CAMPAIGN, CampaignFile
from aim_runtime.campaigns.runner import DeviceRunner
from aim_runtime.campaigns.step import DecodeStep, KernelStep, PrefillStep
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement import measure as measure_module
from aim_runtime.measurement.attention_backend import AttentionBackend
from aim_runtime.measurement.run_kind import RunKind
from tests.runtime.support import tiny_config

PAIR = (Schedule(), Schedule.parse("merge frame:3, prune linear:1:3"))


@pytest.fixture
def steps(tmp_path):
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(tiny_config()))
    model = str(config)
    return [
        PrefillStep(model, 2, 6, PAIR, 2),
        KernelStep(model, 2, 1.0),
        PrefillStep(model, 2, 6, PAIR, 1, RunKind.MASKED),
        DecodeStep(model, 2, 6, PAIR, 1, new_tokens=2),
    ]


@pytest.fixture
def kernels(monkeypatch):
    """Stand in for the microbenchmark, which takes as long as it is told and has its own tests."""
    made = []

    def fake(spec, workload, folder, device, dtype, seconds, attention):
        made.append((spec.name, workload.frames))
        (folder / "hardware.yaml").write_text("a profile")
        (folder / "table.csv").write_text("a table")
        return [folder / "hardware.yaml", folder / "table.csv"]

    monkeypatch.setattr(module, "microbench", fake)
    return made


@pytest.fixture
def runner():
    return lambda: DeviceRunner("cpu", "float32", hardware="cpu-generic")


def run(steps, folder, runner, **options):
    return run_campaign(steps, folder, runner(), minutes=1e6, **options)


def test_every_step_leaves_rows_and_nothing_is_measured_twice(steps, kernels, runner, tmp_path):
    out = tmp_path / "out"
    file = run(steps, out, runner)
    assert [record.status for record in file.steps] == ["done"] * 5
    assert [row.key.run.execution for row in file.rows] == [
        *["eager"] * 2, *["masked"] * 2, *["decode"] * 2, "eager",
    ]  # fmt: skip
    assert not any(row.error for row in file.rows)
    assert [row.repeats for row in file.rows] == [2, 2, 1, 1, 1, 1, 2]
    assert file.rows[-1].key.visit == 2
    assert kernels == [("tiny", 2)]
    assert file.kernels[0].files == {"hardware.yaml": "a profile", "table.csv": "a table"}
    assert {path.name for path in out.iterdir()} == {CAMPAIGN, "predictions.json"}
    for row in file.rows:
        assert (row.origin.torch, row.key.run.scoring) == (torch.__version__, "torch")
        assert row.key.attention_backend in {backend.value for backend in AttentionBackend}
    again = run(steps, out, runner)
    assert (again.rows, again.steps) == (file.rows, file.steps)


def test_an_attention_backend_that_is_asked_for_is_part_of_the_key(steps, runner, tmp_path):
    out, math = tmp_path / "out", AttentionBackend.math
    asked = lambda: DeviceRunner("cpu", "float32", hardware="cpu-generic", attention=math)  # noqa: E731
    first = run(steps[:1], out, runner)
    both = run(steps[:1], out, asked)
    backends = [row.key.attention_backend for row in both.rows if row.key.visit == 1]
    assert sorted(backends) == sorted(["math"] * 2 + [first.rows[0].key.attention_backend] * 2)
    assert backends.count("math") == 2


def test_ctrl_c_in_a_prefill_ends_the_campaign(steps, kernels, runner, tmp_path, monkeypatch):
    original, calls = measure_module._Prefill._sample, []

    def struck(self):
        calls.append(self)
        if len(calls) == 4 + 1:  # after the warm-up and one round
            signal.raise_signal(signal.SIGINT)
        return original(self)

    monkeypatch.setattr(measure_module._Prefill, "_sample", struck)
    out, before = tmp_path / "out", signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(steps, out, runner)
    assert signal.getsignal(signal.SIGINT) is before
    file = CampaignFile(out)
    assert [record.status for record in file.steps] == ["stopped"]
    assert [row.repeats for row in file.rows] == [1, 1]
    assert not kernels
    monkeypatch.setattr(measure_module._Prefill, "_sample", original)
    whole = run(steps, out, runner)
    assert [row.repeats for row in whole.rows][:2] == [2, 2]


def test_ctrl_c_in_a_microbenchmark_leaves_no_table(steps, kernels, runner, tmp_path, monkeypatch):
    def struck(spec, workload, folder, device, dtype, seconds, attention):
        try:  # as the real one does
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            return []

    fake = module.microbench
    monkeypatch.setattr(module, "microbench", struck)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(steps[1:2], out, runner)
    assert CampaignFile(out).kernels == []
    monkeypatch.setattr(module, "microbench", fake)
    assert len(run(steps[1:2], out, runner).kernels) == 1


def test_ctrl_c_that_a_decoding_swallows_leaves_no_row(steps, runner, tmp_path, monkeypatch):
    def struck(*args, **options):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return []

    monkeypatch.setattr(module, "measure_decode", struck)
    with pytest.raises(KeyboardInterrupt):
        run(steps[3:], tmp_path / "out", runner)
    assert CampaignFile(tmp_path / "out").rows == []


def test_a_graph_that_cannot_be_captured_is_a_row(steps, runner, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    graph = replace(steps[0], execution=RunKind.CUDA_GRAPH)
    file = run([graph, steps[2]], tmp_path / "out", runner)
    assert [row.key.run.execution for row in file.rows] == ["cuda-graph"] * 2 + ["masked"] * 2
    assert ["PatchError" in (row.error or "") for row in file.rows] == [True] * 2 + [False] * 2


@pytest.mark.parametrize(
    ("name", "other", "refused"),
    [
        ("cpu", "another CPU", False),
        ("torch", "2.0", True),
        ("transformers", "5.0", True),
        ("gpu", "another GPU", True),
    ],
)
def test_rows_of_another_machine(steps, runner, tmp_path, monkeypatch, name, other, refused):
    """The CPU does not matter where there is a GPU."""
    facts = replace(module.environment(), gpu="NVIDIA H100")
    monkeypatch.setattr(module, "environment", lambda: facts)
    out = tmp_path / "out"
    run(steps[:1], out, runner)
    facts = replace(facts, **{name: other})
    if not refused:
        assert len(run(steps[:1], out, runner).rows) == 3
        return
    with pytest.raises(MeasurementError, match=f"environment.{name}"):
        run(steps[:1], out, runner)


def test_the_cpu_matters_without_a_gpu(steps, runner, tmp_path, monkeypatch):
    facts = replace(module.environment(), gpu=None)
    monkeypatch.setattr(module, "environment", lambda: facts)
    run(steps[:1], tmp_path / "out", runner)
    facts = replace(facts, cpu="another CPU")
    with pytest.raises(MeasurementError, match=r"environment\.cpu"):
        run(steps[:1], tmp_path / "out", runner)


def test_a_folder_holds_the_rows_of_one_gpu(steps, runner, tmp_path):
    out = tmp_path / "out"
    run(steps[:1], out, runner)

    def other():
        found = runner()
        found.setting = replace(found.setting, device_name="NVIDIA H200")
        return found

    with pytest.raises(MeasurementError, match="a folder holds the rows of one GPU"):
        run(steps[:1], out, other)


def test_a_folder_of_rows_takes_no_rehearsal(steps, runner, tmp_path):
    """Whatever its device is called."""
    out = tmp_path / "out"
    run(steps[:1], out, runner)

    def rehearsed():
        found = runner()
        found.setting = replace(found.setting, rehearsal=True)
        return found

    with pytest.raises(MeasurementError, match="expected a rehearsal, as here, got rows of a"):
        run(steps[:1], out, rehearsed)


@pytest.mark.parametrize("text", ["", "{}", '{"format": "aim-campaign-1", "rows": [1]}', "[]"])
def test_another_file_is_left_alone(steps, runner, tmp_path, text):
    (tmp_path / CAMPAIGN).write_text(text)
    with pytest.raises(MeasurementError, match="the format aim-campaign-1"):
        run(steps, tmp_path, runner)
    assert (tmp_path / CAMPAIGN).read_text() == text


def test_the_interrupts_of_a_thread_are_not_ours(steps, runner, tmp_path):
    import threading

    done, before = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(
        target=lambda: done.append(run(steps[:1], tmp_path / "out", runner).rows)
    )
    thread.start()
    thread.join()
    assert len(done[0]) == 3
    assert signal.getsignal(signal.SIGINT) is before
