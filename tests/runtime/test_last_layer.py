"""A last layer that computes its last token alone gives the same logits and the same cache."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_runtime import patched
from aim_runtime.errors import PatchError
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.support import left_padded, tiny_llava, tiny_qwen2, video_inputs

LAYERS = 6
CLOSE = 5e-6  # 1e-6 of logits up to 5: products of one row are summed in another order
MERGES = (
    None,
    Merge.parse("0.5"),
    Merge.parse("passes:5,3"),
    Merge.parse("passes:5 positions=kept"),
    Merge.parse("passes:5 by=random"),
)
PRUNES = (
    None,
    Prune.parse("linear:1:4"),
    Prune.parse("linear:4:6 score=text-attention"),
    Prune.parse("ratios:1,1,1,1,0"),
    Prune.parse("ratios:1,0.75,0.75,0.5,0.25,0.125 drop=after-attention"),
    Prune.parse("ratios:1,1,1,1,1,0.5 drop=after-attention"),
    Prune.parse("ratios:1,1,1,1,1,0 drop=after-attention"),
    Prune.parse("linear:2:5 score=random drop=after-attention"),
    Prune.parse("linear:2:5 score=pagerank-causal"),
)
schedules = st.builds(Schedule, st.sampled_from(MERGES), st.sampled_from(PRUNES))


@pytest.fixture(scope="module")
def models():
    found = {name: tiny_llava(LAYERS) for name in ("sdpa", "eager")}
    for name, model in found.items():
        model.set_attn_implementation(name)
    return found


def prefill(model, schedule, inputs, last_layer, **call):
    with patched(model, schedule, last_layer=last_layer) as trace, torch.no_grad():
        output = model(**inputs, use_cache=True, **({"logits_to_keep": 1} | call))
    return output, trace


def assert_same_cache(mine, theirs):
    for one, other in zip(mine.layers, theirs.layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


def expected_tokens(tokens):
    last = len(tokens.attention_tokens) - 1
    return dataclasses.replace(
        tokens,
        mlp_tokens=(*tokens.mlp_tokens[:-1], 1),
        scored_layers=tuple(layer for layer in tokens.scored_layers if layer != last),
        last_queries=1,
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    schedule=schedules,
    attention=st.sampled_from(("sdpa", "eager")),
    frames=st.integers(1, 5),
    before=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    after=st.integers(1, 6),
)
def test_logits_and_cache_are_the_same(models, schedule, attention, frames, before, after):
    """Batches padded on the left where texts differ, scores in the last layer, both attentions."""
    prompts = [video_inputs(frames, text, after, seed=text) for text in before]
    inputs, model = left_padded(prompts), models[attention]
    whole, trace = prefill(model, schedule, inputs, "all")
    output, needed = prefill(model, schedule, inputs, "needed")
    assert output.logits.shape == whole.logits.shape == (len(before), 1, 256)
    torch.testing.assert_close(output.logits, whole.logits, rtol=0, atol=CLOSE)
    assert_same_cache(cache_of(output), cache_of(whole))
    assert needed.tokens == expected_tokens(trace.tokens)
    assert needed.cache_tokens == trace.cache_tokens
    for mine, theirs in zip(needed.kept[:-1], trace.kept[:-1], strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(needed.kept[-1], trace.kept[-1][:, -1:])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_bare_language_model(attention):
    model = tiny_qwen2(LAYERS)
    model.set_attn_implementation(attention)
    mask = torch.zeros(2, 40, dtype=torch.bool)
    mask[0, 4:30], mask[1, 9:35] = True, True
    embeds = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(7))
    padding = torch.ones(2, 40, dtype=torch.long)
    padding[1, :5] = 0
    found = []
    for last_layer in ("all", "needed"):
        schedule = Schedule.parse("prune linear:1:4")
        with patched(model, schedule, visual_mask=mask, last_layer=last_layer) as trace:
            call = {"inputs_embeds": embeds, "attention_mask": padding, "logits_to_keep": 1}
            found.append((model(**call), trace.tokens))
    (whole, tokens), (output, needed) = found
    torch.testing.assert_close(output.logits, whole.logits, rtol=0, atol=CLOSE)
    assert_same_cache(cache_of(output), cache_of(whole))
    assert needed == expected_tokens(tokens)


WAYS = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generation_is_the_same(models, attention, way):
    inputs = left_padded([video_inputs(before=3), video_inputs(before=8, seed=2)])
    schedule = Schedule.parse(
        "merge passes:5,3 positions=kept, prune ratios:1,1,0.5,0.5,0.5,0.2 drop=after-attention"
    )
    new = []
    for last_layer in ("all", "needed"):
        with patched(models[attention], schedule, last_layer=last_layer) as trace:
            torch.manual_seed(3)
            new.append(models[attention].generate(**inputs, max_new_tokens=6, **WAYS[way]))
            assert trace.tokens.last_queries == (1 if last_layer == "needed" else None)
    assert torch.equal(*new)


@pytest.mark.parametrize(
    "call",
    [
        {"logits_to_keep": 0},
        {"logits_to_keep": 2},
        {"logits_to_keep": torch.tensor([-2])},
        {"logits_to_keep": 1, "output_hidden_states": True},
    ],
    ids=str,
)
def test_other_calls_change_no_bit(models, call):
    schedule, inputs = Schedule.parse("merge 0.5, prune linear:1:4"), video_inputs(batch=2)
    whole, trace = prefill(models["sdpa"], schedule, inputs, "all", **call)
    output, needed = prefill(models["sdpa"], schedule, inputs, "needed", **call)
    assert torch.equal(output.logits, whole.logits)
    assert_same_cache(cache_of(output), cache_of(whole))
    assert needed.tokens == trace.tokens
    assert torch.equal(needed.kept[-1], trace.kept[-1])
    for mine, theirs in zip(output.hidden_states or (), whole.hidden_states or (), strict=True):
        assert torch.equal(mine, theirs)


def test_outputs_that_a_config_asks_for_are_whole():
    model = tiny_qwen2(LAYERS)
    model.config.output_hidden_states = True
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, 4:12] = True
    with patched(model, Schedule(), visual_mask=mask, last_layer="needed") as trace:
        output = model(input_ids=torch.arange(20)[None], logits_to_keep=1)
    assert output.hidden_states[-1].shape == (1, 20, 64)
    assert trace.tokens.last_queries is None


def test_a_failed_call_is_forgotten(models):
    """What it wanted is not what the next call, of the inner model, wants."""
    model, inputs = models["sdpa"], video_inputs()
    with patched(model, Schedule(), last_layer="needed") as trace:
        with pytest.raises(ValueError, match="do not match"):  # of the model itself
            model(**inputs | {"input_ids": inputs["input_ids"][:, :20]}, logits_to_keep=1)
        states = model.model(**inputs).last_hidden_state
    assert states.shape[1] == inputs["input_ids"].shape[1]
    assert trace.tokens.last_queries is None


def test_text_behind_the_cache_sees_the_same(models):
    model, schedule = models["sdpa"], Schedule.parse("merge 0.5, prune linear:1:4")
    inputs, more = video_inputs(), torch.tensor([[11, 12, 13]])
    answers = []
    for last_layer in ("all", "needed"):
        with patched(model, schedule, last_layer=last_layer), torch.no_grad():
            cache = cache_of(model(**inputs, use_cache=True, logits_to_keep=1))
            answers.append(model(input_ids=more, **with_cache(cache), logits_to_keep=1).logits)
    assert torch.equal(*answers)


def test_unpatched_as_before(models):
    model, inputs = models["sdpa"], video_inputs()
    before, names = model(**inputs).logits, dict(vars(model.model.language_model.layers[-1]))
    prefill(model, Schedule(prune=PRUNES[4]), inputs, "needed")
    assert dict(vars(model.model.language_model.layers[-1])) == names
    assert not model._forward_pre_hooks and not model._forward_hooks
    assert torch.equal(model(**inputs).logits, before)


def test_names_are_checked(models):
    with (
        pytest.raises(PatchError, match="all, needed"),
        patched(models["sdpa"], Schedule(), last_layer="last"),
    ):
        pass
