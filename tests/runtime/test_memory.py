"""The byte counter, on operations whose bytes can be counted by hand, and on the model."""

import pytest
import torch
from torch.nn import functional

from aim_cost import Execution, Schedule, Workload, preset_config
from aim_cost.case.memory import prefill_memory
from aim_runtime import load, patched
from aim_runtime.measurement.memory import track_peak_bytes
from aim_runtime.prompts.inputs import sized_inputs

DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])
MODES = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
N = 100
BYTES = 4 * N * N  # one float32 matrix


@DEVICES
@MODES
def test_what_is_freed_does_not_count(device, mode):
    a = torch.ones(N, N, device=device)

    def work():
        b = a + 1  # one matrix
        c = b * 2  # two
        del b  # one
        d = c @ a  # two
        e = d - 1  # three
        del c, d  # one
        return e.to(torch.bfloat16)  # one and a half

    with mode():
        memory = track_peak_bytes(work)
    assert memory.peak_bytes == 3 * BYTES
    assert memory.peak_operation == "aten.sub.Tensor"
    assert memory.final_bytes == BYTES // 2


@DEVICES
@MODES
def test_views_results_in_place_and_what_existed_do_not_count(device, mode):
    a, b = torch.ones(N, N, device=device), torch.ones(N, N, device=device)

    def work():
        a.view(-1)[:5].add_(1)
        b.t().mul_(a)
        return a.expand(7, N, N).transpose(0, 1)

    with mode():
        memory = track_peak_bytes(work)
    assert (memory.peak_bytes, memory.final_bytes) == (0, 0)


@DEVICES
@MODES
def test_composite_operations_count_what_their_parts_allocate(device, mode):
    a = torch.ones(2, N, N, device=device)

    def work():
        # the kernel's own way: one copy of the argument and one output, nothing in between
        return functional.interpolate(
            a.transpose(1, 2)[None].contiguous(), scale_factor=2, mode="bilinear"
        )

    with mode():
        memory = track_peak_bytes(work)
    assert memory.peak_bytes == (2 + 8) * BYTES
    assert memory.final_bytes == 8 * BYTES


@DEVICES
def test_composite_operations_count_the_same_under_inference_mode(device):
    a, b = torch.ones(N, N, device=device), torch.ones(N, N, device=device)
    counts = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            counts.append(track_peak_bytes(lambda: functional.cosine_similarity(a, b)))
    assert counts[0] == counts[1]
    assert counts[0].peak_bytes > BYTES > counts[0].final_bytes


def test_the_count_is_the_same_in_every_run_and_reads_storage_once():
    a = torch.ones(N, N)

    def work():
        halves = (a + 1).split(N // 2)  # two views of one storage
        return halves[0].sum() + halves[1].sum()

    first = track_peak_bytes(work)
    assert first == track_peak_bytes(work)
    assert BYTES <= first.peak_bytes < BYTES + 100


def test_a_tensor_that_outlives_the_tracker_is_harmless():
    kept = []
    track_peak_bytes(lambda: kept.append(torch.ones(N, N) + 1))
    assert track_peak_bytes(kept.clear).peak_bytes == 0


@pytest.fixture(scope="module")
def loaded():
    config = preset_config("llava-onevision-qwen2-0.5b")
    return load(config, "cpu", "bfloat16", random_weights=True, layers=2)


@pytest.mark.parametrize("label", ["none", "merge 0.25", "merge 0.5, prune linear:0:2"])
def test_the_cost_models_activations_are_those_of_the_real_dims(loaded, label):
    """The prediction leaves out the prompt's embeddings while frames are encoded: up to 3 %."""
    schedule = Schedule.parse(label)
    workload = Workload(text_tokens=20, frames=1)
    inputs = sized_inputs(loaded, workload)
    with torch.inference_mode(), patched(loaded.model, schedule):
        memory = track_peak_bytes(
            lambda: loaded.model(**inputs, use_cache=True, logits_to_keep=1).logits
        )
    trace = schedule.resolve(loaded.spec, workload)
    predicted = prefill_memory(loaded.spec, workload, trace, Execution("bfloat16"))
    activations = predicted.peak_bytes - predicted.weights_bytes
    alive = memory.peak_bytes + inputs["pixel_values_videos"].nbytes
    assert activations == pytest.approx(alive, rel=0.03)
