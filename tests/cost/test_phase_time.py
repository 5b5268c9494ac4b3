"""Times of phases: the queue between host and device, bands, sources."""

import dataclasses

import numpy as np
import pytest

from aim_cost import Execution, Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_cost.conventions.convention import LLM_VIEWER
from aim_cost.errors import ProfileError, SpecError
from aim_cost.timing import load_calibration
from aim_cost.timing.prefill_time import PhaseTime, combine, time_model

SMALL, LARGE = (load_model_spec(f"llava-onevision-qwen2-{size}") for size in ("0.5b", "7b"))
H100 = load_hardware("h100-sxm")
VIDEO = Workload(text_tokens=100, frames=32)
AIM = Schedule.parse("merge 0.25, prune linear:14:22")


def price(model=LARGE, schedule=AIM, hardware=H100, mode="eager", **kwargs):
    return estimate(model, VIDEO, schedule, hardware, Execution(mode=mode), **kwargs)


def test_times_add_up_and_lie_in_their_bands():
    result = price()
    phases = [result.time(name) for name in ("vision", "merge", "llm", "importance")]
    assert sum(p.time_s for p in phases) == pytest.approx(result.ttft_s)
    for phase in [*phases, result.ttft]:
        assert phase.low_s < phase.time_s < phase.high_s
        assert phase.source == "calibrated"


def test_the_modes_are_ordered():
    ideal, graph, eager = (price(mode=mode).ttft_s for mode in ("ideal", "cuda-graph", "eager"))
    assert ideal < graph < eager


def test_ideal_is_an_open_lower_bound():
    ttft = price(mode="ideal").ttft
    assert (ttft.low_s, ttft.high_s, ttft.source) == (ttft.time_s, None, "datasheet")


def test_a_small_reduced_model_is_bound_by_the_host_and_a_graph_is_not():
    eager, graph = price(SMALL), price(SMALL, mode="cuda-graph")
    assert eager.time("llm").bound == "host"
    assert graph.time("llm").bound != "host"
    # the merged and pruned 0.5B model is hardly faster than the unreduced one, eager on an H100
    assert eager.ttft_s > 0.95 * price(SMALL, Schedule()).ttft_s


def test_the_device_waits_for_the_host_only_when_it_is_idle():
    """With a host that needs no time, eager costs the kernels; with a slow one, the host."""
    calibration = load_calibration("h100-sxm")
    each = calibration.dispatch.host_s_per_kernel

    def with_host(seconds):
        host = dataclasses.replace(each, value=seconds, low=seconds, high=seconds)
        dispatch = dataclasses.replace(calibration.dispatch, host_s_per_kernel=host)
        return dataclasses.replace(calibration, dispatch=dispatch)

    quick = price(calibration=with_host(1e-12))
    kernels = quick.time_model.model.times(quick.graph.ops).time_s.sum()
    assert quick.ttft_s == pytest.approx(kernels)
    slow = price(calibration=with_host(1e-3))
    model = slow.time_model.model
    assert slow.ttft_s == pytest.approx(model.host_s(slow.graph.ops).sum(), rel=1e-2)
    assert slow.ttft.bound == "host"
    between = price(calibration=with_host(2e-5))
    host = between.time_model.model.host_s(between.graph.ops).sum()
    assert max(kernels, host) <= between.ttft_s <= kernels + host


def test_other_devices_inherit_with_a_wider_band():
    own, l40s, mi300x = (
        price(hardware=load_hardware(name)).ttft for name in ("h100-sxm", "l40s", "mi300x")
    )

    def width(t):
        return np.log(t.high_s / t.low_s)

    assert own.source == "calibrated"
    assert l40s.source == mi300x.source == "inherited"
    assert min(width(l40s), width(mi300x)) > width(own)


def test_a_cpu_has_no_calibration_and_says_so():
    assert price(hardware=load_hardware("cpu-generic")).ttft.source == "datasheet"


def test_the_published_convention_stays_a_roofline():
    result = price(convention=LLM_VIEWER)
    assert result.ttft.source == "datasheet"
    assert result.to_row()["execution"] == "ideal"


def test_rows_carry_band_bound_and_source():
    row = price().to_row()
    for phase in ("vision", "vision.tower", "merge", "llm", "llm.head", "importance"):
        assert row[f"{phase}.time_low_s"] <= row[f"{phase}.time_s"] <= row[f"{phase}.time_high_s"]
        assert row[f"{phase}.bound"] in {"compute", "memory", "host", "none"}
        assert row[f"{phase}.source"] == "calibrated"
    assert row["ttft_low_s"] < row["ttft_s"] < row["ttft_high_s"]


def test_phases_share_their_errors():
    parts = [PhaseTime(10, 7, 13, "compute", "s"), PhaseTime(20, 16, 24, "memory", "s")]
    assert combine(parts) == PhaseTime(30, 23, 37, "memory", "s")
    open_end = [parts[0], PhaseTime(1, 1, None, "memory", "s")]
    assert combine(open_end).high_s is None


def test_sizes_that_no_table_holds_are_told():
    usual = price(schedule=Schedule())
    assert usual.ttft.extrapolated < 0.01
    long = estimate(LARGE, Workload(frames=192, text_tokens=100), Schedule(), H100)
    llm = long.phase("llm")
    assert 0.5 < llm.extrapolated <= 1
    parts = [long.phase(name) for name in ("vision", "llm")]
    mixed = sum(p.extrapolated * p.time_s for p in parts) / long.ttft_s
    assert long.to_row()["extrapolated"] == pytest.approx(mixed)
    assert price(mode="ideal").ttft.extrapolated == 0


def test_errors():
    with pytest.raises(SpecError, match="cuda-graph"):
        Execution(mode="compiled")
    with pytest.raises(ProfileError, match="--dtype"):
        time_model(load_hardware("t4"), Execution())
