"""Predicted peak memory against the tensors that are really alive, on the real dims."""

import pytest
import torch

from aim_cost import Execution, Schedule, Workload
from aim_cost.case.memory import prefill_memory
from aim_runtime import load, patched
from aim_runtime.measurement.memory import track_peak_bytes
from aim_runtime.prompts.inputs import sized_inputs
from aim_runtime.seams import tower_keeps_hidden_states

WORKLOAD = Workload(text_tokens=60, frames=3)


@pytest.fixture(scope="module")
def loaded():
    # the two layers of each kind that the peak needs; more only add to the KV cache
    return load(
        "llava-onevision-qwen2-0.5b",
        "cpu",
        "bfloat16",
        random_weights=True,
        layers=2,
        vision_layers=6,
    )


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(),
        Schedule.parse("merge 0.25"),
        Schedule.parse("prune ratios:0.5"),
        Schedule.parse("prune ratios:0.5 score=rater-attention"),
        Schedule.parse("prune ratios:0.5 score=layer-change"),
        Schedule.parse("vision-merge 100, merge 0.25"),
        Schedule.parse("vision-merge 364 layers=0-0, merge 0.25"),
    ],
    ids=Schedule.label,
)
def test_the_peak_is_that_of_the_tensors(loaded, schedule):
    inputs = sized_inputs(loaded, WORKLOAD)
    with torch.inference_mode(), patched(loaded.model, schedule):
        tracked = track_peak_bytes(
            lambda: loaded.model(**inputs, use_cache=True, logits_to_keep=1).logits
        )
    trace = schedule.resolve(loaded.spec, WORKLOAD)
    execution = Execution(keeps_tower_states=tower_keeps_hidden_states(loaded.model))
    memory = prefill_memory(loaded.spec, WORKLOAD, trace, execution)
    # the tracker does not see what was there before: weights and pixels
    pixels = inputs["pixel_values_videos"]
    activations = memory.peak_bytes - memory.weights_bytes - pixels.nbytes
    assert activations == pytest.approx(tracked.peak_bytes, rel=0.02)
