"""The recorded runs of the official code, with its two departures from a physical drop repaired."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import Qwen2ForCausalLM

from aim_cost import Schedule
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.reference import Reference
from aim_runtime.validation.selfcheck import qwen2_config
from tests.runtime.support import shared_golden

SCHEDULE = Schedule(prune=Prune(linear=(14, 22)))


@pytest.fixture(params=["0.1", "0.2"])
def recorded(request):
    path = shared_golden(f"prefill_prune_std{request.param}.safetensors")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    model = Qwen2ForCausalLM(qwen2_config(json.loads(metadata["config"]))).eval()
    weights = {
        name.removeprefix("weights."): tensor
        for name, tensor in tensors.items()
        if name.startswith("weights.")
    }
    model.load_state_dict(weights)
    ((start, end, tokens),) = json.loads(metadata["boundaries"])
    visual_mask = torch.zeros(1, tokens, dtype=torch.bool)
    visual_mask[:, start:end] = True
    return model, tensors, visual_mask


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_kept_sets_logits_and_greedy_tokens(recorded, attention):
    model, tensors, visual_mask = recorded
    model.set_attn_implementation(attention)
    with patched(model, SCHEDULE, visual_mask=visual_mask) as trace:
        logits = model(inputs_embeds=tensors["inputs_embeds"]).logits
        kept = trace.kept
        new = model.generate(
            inputs_embeds=tensors["inputs_embeds"], max_new_tokens=6, do_sample=False
        )
    assert len(kept) == 29
    for layer in range(1, 29):
        expected = tensors[f"patched.kept_into_layer.{layer:02d}"]
        assert torch.equal(kept[layer][0], expected), f"layer {layer}"
    text = (~visual_mask[0]).nonzero()[:, 0]
    assert torch.equal(kept[-1][0], text)
    torch.testing.assert_close(logits[0], tensors["patched.logits"][0, text], rtol=0, atol=1e-4)
    assert torch.equal(new, tensors["fixed.greedy_tokens"])


def test_the_trace_is_the_predicted_one(recorded):
    model, tensors, visual_mask = recorded
    with patched(model, SCHEDULE, visual_mask=visual_mask) as trace:
        model(inputs_embeds=tensors["inputs_embeds"])
    visual = VisualInput(groups=1, group_tokens=197, newline_tokens=0)
    assert trace.tokens == SCHEDULE.resolve_visual(visual, text_tokens=37, layers=28)
    assert trace.cache_tokens == trace.tokens.attention_tokens


def test_the_first_drop_is_that_of_the_unmodified_code(recorded):
    model, tensors, visual_mask = recorded
    with patched(model, SCHEDULE, visual_mask=visual_mask) as trace:
        model(inputs_embeds=tensors["inputs_embeds"])
    official = [tensors[f"official.kept_into_layer.{layer:02d}"] for layer in range(1, 29)]
    same = [torch.equal(a[0], b) for a, b in zip(trace.kept[1:], official, strict=True)]
    assert all(same[:15])
    assert not all(same)


def test_the_reference_reproduces_the_recording_too(recorded):
    model, tensors, visual_mask = recorded
    visual = VisualInput(groups=1, group_tokens=197, newline_tokens=0)
    trace = SCHEDULE.resolve_visual(visual, text_tokens=37, layers=28)
    reference, embeds = Reference(model.model, model.lm_head), tensors["inputs_embeds"][0]
    kept = reference.kept(embeds, visual_mask[0], trace)
    for layer in range(1, 29):
        expected = tensors[f"patched.kept_into_layer.{layer:02d}"]
        assert torch.equal(kept[layer].nonzero()[:, 0], expected), f"layer {layer}"
    assert reference.generate(embeds, kept, 6) == tensors["fixed.greedy_tokens"][0].tolist()
