"""Predicted FLOPs equal counted FLOPs, and predicted traces recorded ones, on the real dims.

The real classes run on the meta device: shapes without data, so the 7B model takes a second.
"""

import dataclasses
import functools
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aim_cost import (
    Execution,
    Schedule,
    Workload,
    estimate,
    load_hardware,
    load_model_spec,
    model_parameters,
    preset_config,
)
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import LastLayer
from aim_cost.schedules.merge import MERGE_KINDS, POSITIONS, Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.vision_merge import ATTENTION_KINDS, VisionMerge
from aim_runtime import load, patched
from aim_runtime.measurement.flops import FlopRecorder
from aim_runtime.patching.prompt_shortening import PromptShortening
from aim_runtime.prompts.entering import Entering
from tests.runtime.slow_scores import RANKINGS

H100 = load_hardware("h100-sxm")
MODELS = ("llava-onevision-qwen2-0.5b", "llava-onevision-qwen2-7b")


def falling(entries):
    """Up to 24 entries, one a layer, that never rise."""
    lists = st.lists(entries, min_size=1, max_size=24)
    return lists.map(lambda values: tuple(sorted(values, reverse=True)))


merges = st.none() | st.builds(
    Merge,
    retention=st.floats(0.01, 1),
    by=st.sampled_from(MERGE_KINDS),
    positions=st.sampled_from(POSITIONS),
)
linear = st.tuples(st.integers(0, 23), st.integers(1, 32)).filter(lambda pair: pair[0] < pair[1])
amounts = st.one_of(
    linear.map(lambda pair: {"linear": pair}),
    falling(st.floats(0, 1)).map(lambda ratios: {"ratios": ratios}),
    falling(st.integers(0, 9000)).map(lambda tokens: {"tokens": tokens}),
)
prunes = st.none() | st.builds(
    lambda amount, ranking: Prune(**amount, **ranking),
    amounts,
    st.sampled_from(RANKINGS),
)
vision_merges = st.none() | st.builds(
    VisionMerge,
    remove=st.integers(1, 60),
    layers=st.none() | st.tuples(*[st.integers(0, 25)] * 2).map(sorted),
    attention=st.sampled_from(ATTENTION_KINDS),
)


@functools.cache
def on_meta(name):
    return load(name, device="meta", random_weights=True)


def counted(loaded, schedule, workload, last_layer="all"):
    """FLOPs per phase and the trace, in the two halves that need no data between them."""
    from torch.utils.flop_counter import FlopCounterMode

    from aim_runtime.measurement.clock import phase_hooks

    model, config = loaded.model, loaded.config
    counter = FlopCounterMode(display=False)
    recorder = FlopRecorder(counter)
    size = config.vision_config.image_size
    pixels = torch.empty(
        workload.batch, workload.frames, 3, size, size, device="meta", dtype=torch.bfloat16
    )
    entering = Entering(mock.Mock(), {}, None)
    with (
        # as in the forward, where a prompt is entering
        mock.patch.object(PromptShortening, "_encoding_for", return_value=entering),
        torch.inference_mode(),
        patched(model, schedule, recorder=recorder) as encoded,
        phase_hooks(model, recorder),
        counter,
    ):
        model.model.get_video_features(
            pixels, vision_feature_layer=-1, vision_feature_select_strategy="full"
        )
    # transformers 5.17 appends the newline after this call, 5.23 in it
    visual = schedule.resolve(loaded.spec, workload).visual_tokens
    prompt = visual + workload.text_tokens
    embeds = torch.empty(
        workload.batch, prompt, config.text_config.hidden_size, device="meta", dtype=torch.bfloat16
    )
    mask = torch.zeros(1, prompt, dtype=torch.bool)
    mask[:, 3 : 3 + visual] = True
    pruning = Schedule(prune=schedule.prune)
    with (
        torch.inference_mode(),
        patched(
            model, pruning, visual_mask=mask, recorder=recorder, last_layer=last_layer
        ) as trace,
        phase_hooks(model, recorder),
        counter,
    ):
        model(inputs_embeds=embeds, logits_to_keep=1, use_cache=True)
    tower = encoded.tower
    if tower is None:
        return dict(recorder.flops), trace.tokens
    seen = {"tower_tokens": tower.tokens, "tower_attention": tower.attention}
    return dict(recorder.flops), dataclasses.replace(trace.tokens, **seen)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=10, deadline=None)
@given(
    merge=merges,
    prune=prunes,
    frames=st.integers(1, 40),
    text_tokens=st.integers(4, 300),
    batch=st.integers(1, 2),
    last_layer=st.sampled_from(LastLayer),
    vision_merge=vision_merges,
)
def test_flops_and_traces_are_exact(
    name, merge, prune, frames, text_tokens, batch, last_layer, vision_merge
):
    loaded = on_meta(name)
    schedule = Schedule(merge, prune, vision_merge=vision_merge)
    workload = Workload(text_tokens=text_tokens, frames=frames, batch=batch)
    try:
        execution = Execution(last_layer=last_layer)
        predicted = estimate(loaded.spec, workload, schedule, H100, execution)
    except ScheduleError:  # less than one token a frame, more left than there are or than half
        assume(False)
    flops, tokens = counted(loaded, schedule, workload, last_layer)
    for phase in ("vision.tower", "vision.projector", "vision.pooling", "llm.layers", "llm.head"):
        assert flops[phase] == predicted.phase(phase).flops, phase
    for phase in ("merge", "importance"):
        assert flops.get(phase, 0) == predicted.phase(phase).flops, phase
    # the prompt enters as embeddings, merged already
    merged = {"groups": 1, "merge_tokens": (predicted.trace.visual_tokens,), "newline_tokens": 0}
    assert tokens == dataclasses.replace(predicted.trace, **merged, merged_by="similarity")


@pytest.mark.parametrize("ranking", RANKINGS, ids=lambda ranking: "-".join(ranking.values()))
def test_flops_of_each_score_are_exact(ranking):
    """Two drops, the second of them in or before the last layer."""
    loaded, batch = on_meta(MODELS[0]), 2
    schedule = Schedule(prune=Prune(ratios=(1, 0.5) + (0.5,) * 20 + (0.25, 0.1), **ranking))
    workload = Workload(text_tokens=7, frames=3, batch=batch)
    predicted = estimate(loaded.spec, workload, schedule, H100)
    flops, tokens = counted(loaded, schedule, workload)
    assert len(predicted.trace.scored_layers) >= 2
    assert tokens.scored_layers == predicted.trace.scored_layers
    for phase in ("importance", "llm.layers", "llm.head"):
        assert flops.get(phase, 0) == predicted.phase(phase).flops, phase


def test_aim_on_7b_counts_the_published_integers():
    schedule = Schedule(Merge(retention=0.25), Prune(linear=(14, 22)))
    flops, _ = counted(on_meta(MODELS[1]), schedule, Workload(text_tokens=100, frames=32))
    assert flops["vision.tower"] + flops["vision.projector"] == 21_329_576_460_288
    assert flops["merge"] == 2_753_658_880
    assert flops["llm.layers"] + flops["llm.head"] == 15_527_245_547_520
    assert flops["importance"] == 41_349_456_344


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_class(name):
    assert sum(p.numel() for p in on_meta(name).model.parameters()) == model_parameters(
        load_model_spec(name)
    )


def test_llava_15_parameters_and_vision_flops():
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    fields = {k: v for k, v in preset_config("llava-1.5-7b").items() if k != "aim_cost"}
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig(**fields)).to(torch.bfloat16).eval()
    spec = load_model_spec("llava-1.5-7b")
    assert sum(p.numel() for p in model.parameters()) == model_parameters(spec)
    pixels = torch.empty(1, 3, 336, 336, device="meta", dtype=torch.bfloat16)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        model.get_image_features(
            pixel_values=pixels,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    result = estimate(spec, Workload(40, image_tokens=576), Schedule(), H100)
    assert counter.get_total_flops() == result.phase("vision").flops
