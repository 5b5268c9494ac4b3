"""The measured profile: its numbers are rates, its sources say how."""

import pytest
import torch

from aim_cost import Execution, Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_runtime.errors import MeasurementError
from aim_runtime.kernels import probe as module
from aim_runtime.kernels.probe import probe, speed_since
from aim_runtime.measurement.clock import ClockRecorder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(module, "GEMM_SIZE", {"cpu": 64})
    monkeypatch.setattr(module, "COPY_BYTES", {"cpu": 2**20})


def test_rates_are_work_over_the_median_time(monkeypatch):
    times = iter([9.0, 9.0, 4.0, 1.0, 2.0, 7.0, 2.0, 2.0, 3.0] * 2)  # two of them warm-up

    class Recorder(ClockRecorder):
        def seconds(self):
            return {name: next(times) for name in super().seconds()}

    monkeypatch.setattr(module, "recorder_for", lambda device: Recorder())
    profile = probe(CPU, "float32")
    assert profile.peak_flops_per_s("float32") == 2 * 64**3 / 2.0
    assert profile.memory_bandwidth_bytes_per_s == 2 * 2**20 / 2.0


def test_a_device_that_has_slowed_down_since(monkeypatch):
    seconds = [1.0]

    class Recorder(ClockRecorder):
        def seconds(self):
            return dict.fromkeys(super().seconds(), seconds[0])

    monkeypatch.setattr(module, "recorder_for", lambda device: Recorder())
    profile = probe(CPU, "float32")
    seconds[0] = 1.25
    assert speed_since(profile, CPU, "float32") == pytest.approx(0.8)
    assert speed_since(profile, CPU, "bfloat16") is None  # no rate to compare with
    assert speed_since(load_hardware("h100-sxm"), CPU, "bfloat16") is None  # a datasheet's


def test_every_number_says_how_it_came_about():
    profile = probe(CPU, "float32")
    known = profile.quantities()
    assert "64^3 float32 GEMM, median of 7" in known["flops_per_s.float32"].source
    assert "copy of 1 MiB" in known["memory_bandwidth_bytes_per_s"].source
    assert all(quantity.source and quantity.value > 0 for quantity in known.values())
    assert profile.memory_bytes > 2**28


def test_a_measured_profile_can_be_estimated_on():
    profile = probe(CPU, "bfloat16")
    result = estimate(
        *(load_model_spec("llava-onevision-qwen2-0.5b"), Workload(text_tokens=10, frames=2)),
        *(Schedule(), profile, Execution("bfloat16")),
    )
    assert result.ttft_s > 0


def test_a_device_that_cannot_be_timed():
    with pytest.raises(MeasurementError, match="cuda or cpu"):
        probe(torch.device("meta"), "float32")
