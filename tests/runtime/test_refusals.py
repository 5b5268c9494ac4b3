"""A patch refuses what it cannot serve, before it changes anything."""

import contextlib

import pytest
import torch
from torch import nn
from transformers import (
    DynamicCache,
    PhiConfig,
    PhiForCausalLM,
    StaticCache,
)

from aim_cost import AimError, Schedule
from aim_cost.errors import ScheduleError
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.select import Select
from aim_runtime import PatchError, patch, patched, unpatch
from aim_runtime.seams import with_cache
from tests.runtime.support import (
    VIDEO_TOKEN,
    mask_of,
    state,
    tiny_llava,
    tiny_qwen2,
    video_inputs,
)

PRUNE = Schedule(prune=Prune(linear=(1, 4)))
BOTH = Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4)))


def refused(match: str) -> contextlib.AbstractContextManager[object]:
    return pytest.raises(PatchError, match=match)


def test_refuses_models_it_does_not_know(qwen2):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    phi = PhiForCausalLM(PhiConfig(vocab_size=64, num_attention_heads=2, **sizes))
    for model in (phi, qwen2.model, nn.Linear(2, 2), None):
        with refused("LlavaOnevisionForConditionalGeneration.* Qwen2ForCausalLM"):
            patch(model, PRUNE, visual_mask=mask_of())
    with pytest.raises(AimError, match="Phi"):
        unpatch(phi)


def test_refuses_a_second_patch_and_keeps_the_first(llava):
    inputs = video_inputs()
    with patched(llava, BOTH):
        expected = llava(**inputs).logits
        with refused("already|not patched"):
            patch(llava, Schedule())
        assert torch.equal(llava(**inputs).logits, expected)


@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        (Schedule(prune=Prune(linear=(9, 12))), "l1 below 6"),
        (Schedule(prune=Prune(ratios=(0.5,) * 7)), "at most 6"),
        (Schedule(prune=Prune(tokens=(5,) * 7)), "at most 6"),
    ],
)
def test_refuses_schedules_that_do_not_fit(llava, schedule, match):
    before = state(llava)
    with pytest.raises(ScheduleError, match=match):
        patch(llava, schedule)
    assert state(llava) == before


def test_refuses_merging_that_does_not_fit_before_anything_is_encoded(llava, monkeypatch):
    monkeypatch.setattr(llava.model.vision_tower, "forward", None)
    with patched(llava, Schedule(Merge(tokens_per_frame=10))):
        for call in (llava, llava.generate):
            with pytest.raises(ScheduleError, match="1 to 9"):
                call(**video_inputs())


@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        (Schedule(Merge(0.5), select=Select(tokens=4)), "merge or select"),
        (Schedule(prune=Prune(ratios=(1, 0.5), inject_at=1)), "inject_at"),
        (Schedule(prune=Prune(ratios=(1, 0.5), importance="offline")), "pagerank.*random, uniform"),
        (
            Schedule(prune=Prune(ratios=(1, 0.5), importance="key-distances")),
            "merges.*pagerank-causal",
        ),
    ],
)
def test_refuses_parts_that_are_priced_but_not_run(llava, qwen2, schedule, match):
    for model, mask in ((llava, None), (qwen2, mask_of())):
        before = state(model)
        with refused(match):
            patch(model, schedule, visual_mask=mask)
        assert state(model) == before


def test_refuses_more_tokens_than_there_are(qwen2):
    schedule = Schedule(prune=Prune(tokens=(13, 4)))
    with patched(qwen2, schedule, visual_mask=mask_of()), pytest.raises(ScheduleError, match="12"):
        qwen2(inputs_embeds=torch.randn(1, 20, 64))


def test_refuses_sliding_windows():
    model = tiny_qwen2(use_sliding_window=True, sliding_window=8, max_window_layers=2)
    with refused("sliding_attention"):
        patch(model, PRUNE, visual_mask=mask_of())


def test_refuses_other_attention_implementations(qwen2):
    qwen2.config._attn_implementation = "flex_attention"
    with refused("sdpa, eager.*flex_attention"):
        patch(qwen2, PRUNE, visual_mask=mask_of())


def test_refuses_a_bare_model_without_a_mask(qwen2):
    with refused("visual_mask"):
        patch(qwen2, PRUNE)


def test_refuses_merging_what_is_embedded_already(qwen2, llava):
    for model in (qwen2, llava):
        with refused("merge"):
            patch(model, BOTH, visual_mask=mask_of())


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (mask_of().int(), "bool"),
        (mask_of()[0], "bool tensor"),
        (mask_of().to("meta"), "CPU"),
        ([[True]], "bool tensor"),
        (mask_of(start=3, end=3), "expected visual tokens, got none"),
        (mask_of(start=3, end=20), "text token at the end"),
    ],
)
def test_refuses_masks_that_make_no_prompt(qwen2, mask, match):
    with refused(match):
        patch(qwen2, PRUNE, visual_mask=mask)


def test_refuses_a_mask_of_another_shape(qwen2):
    with patched(qwen2, PRUNE, visual_mask=mask_of()), refused(r"\[1, 20\].*\[1, 19\]"):
        qwen2(inputs_embeds=torch.randn(1, 19, 64))


@pytest.mark.parametrize(
    ("zeros", "match"),
    [([19], "padding_side='left'"), ([0, 2], "between tokens"), ([0, 1, 2, 3], "at visual tokens")],
)
def test_refuses_padding_elsewhere_than_on_the_left(qwen2, zeros, match):
    attention_mask = torch.ones(1, 20, dtype=torch.long)
    attention_mask[:, zeros] = 0
    with patched(qwen2, PRUNE, visual_mask=mask_of()), refused(match):
        qwen2(inputs_embeds=torch.randn(1, 20, 64), attention_mask=attention_mask)


def test_refuses_other_masks(qwen2):
    with patched(qwen2, PRUNE, visual_mask=mask_of()), refused("attention_mask"):
        qwen2(inputs_embeds=torch.randn(1, 20, 64), attention_mask=torch.zeros(1, 1, 20, 20))


def test_refuses_static_caches(qwen2, llava):
    cache = StaticCache(config=qwen2.config, max_cache_len=64)
    with patched(qwen2, PRUNE, visual_mask=mask_of()), refused("StaticCache"):
        qwen2(inputs_embeds=torch.randn(1, 20, 64), **with_cache(cache))
    with patched(llava, BOTH), refused("expected dynamic or offloaded.*got static"):
        llava.generate(**video_inputs(), max_new_tokens=2, cache_implementation="static")


def test_refuses_prefill_in_chunks(qwen2):
    mask, embeds = mask_of(), torch.randn(1, 20, 64)
    cache = DynamicCache(config=qwen2.config)
    with patched(qwen2, PRUNE, visual_mask=mask):
        with refused("one prefill"):
            qwen2(inputs_embeds=embeds[:, :10], **with_cache(cache))
        qwen2(inputs_embeds=embeds, **with_cache(cache))
        with refused("prefill_chunk_size"):
            ids = torch.randint(0, 200, (1, 20))
            qwen2.generate(ids, max_new_tokens=2, prefill_chunk_size=8)


def test_refuses_pixels_without_placeholders(llava):
    ids = torch.randint(0, 200, (1, 9))
    with patched(llava, BOTH), refused("37 video placeholders.*got 0"):
        llava(ids, pixel_values_videos=video_inputs()["pixel_values_videos"])


def test_refuses_placeholders_without_pixels(llava):
    with patched(llava, BOTH):
        for call in (llava, llava.generate):
            with refused("no pixel_values_videos for 37 video placeholders"):
                call(input_ids=video_inputs()["input_ids"])


def test_refuses_images_without_their_sizes(llava):
    inputs = video_inputs() | {"pixel_values": torch.randn(1, 2, 3, 75, 75)}
    with patched(llava, BOTH):
        for call in (llava, llava.generate):
            with refused("image_sizes"):
                call(**inputs)


def test_refuses_embeddings_without_a_mask(llava):
    with patched(llava, PRUNE), refused("visual_mask"):
        llava(inputs_embeds=torch.randn(1, 20, 64))


@pytest.mark.parametrize("left_out", [0, 1])
def test_refuses_embeddings_beside_pixels_before_the_model_looks_for_placeholders(llava, left_out):
    """With a placeholder less, what transformers says of features was all that was said."""
    inputs = video_inputs()
    ids = torch.cat([inputs["input_ids"][:, :8], inputs["input_ids"][:, 8 + left_out :]], dim=1)
    pixels = {"pixel_values_videos": inputs["pixel_values_videos"]}
    embeds = llava.get_input_embeddings()(ids)
    with patched(llava, BOTH):
        for call in (llava, llava.generate):
            with refused("inputs_embeds: expected a visual_mask"):
                call(inputs_embeds=embeds, **pixels)


def test_embeddings_with_a_mask_equal_the_language_model(llava):
    embeds = torch.randn(1, 20, 64)
    with patched(llava, PRUNE, visual_mask=mask_of()) as trace:
        output = llava(inputs_embeds=embeds)
        with refused("inputs_embeds, which it describes"):
            llava(**video_inputs())
    assert output.logits.shape == (1, 8, 256)
    assert (trace.tokens.groups, trace.tokens.merge_tokens) == (1, (12,))


def test_refuses_prompts_that_videos_do_not_fill(llava):
    inputs = video_inputs(batch=2)
    inputs["input_ids"][1, 6] = 3
    with patched(llava, PRUNE), refused("74 video placeholders for 2 videos.*got 37, 36"):
        llava(**inputs)
    inputs = video_inputs(batch=2)
    ids = inputs["input_ids"]
    ids[0, 4], ids[1, 11] = VIDEO_TOKEN, 3  # the right total, but the first row holds one more
    with patched(llava, PRUNE), refused("those of each in one prompt, got 38, 36"):
        llava(**inputs)


def test_refuses_other_numbers_of_videos(llava):
    inputs = video_inputs(frames=4)
    pixels = inputs["pixel_values_videos"].view(2, 2, 3, 75, 75)
    with patched(llava, PRUNE), refused("38 video placeholders for 2 videos.*got 37"):
        llava(**inputs | {"pixel_values_videos": pixels})


def test_refuses_placeholders_that_do_not_fit(llava):
    inputs = video_inputs(frames=4)
    fewer = inputs["pixel_values_videos"][:, :3]
    with patched(llava, BOTH), refused(r"28 video placeholders for 1 video.* got 37"):
        llava(**inputs | {"pixel_values_videos": fewer})


def test_refuses_text_inside_a_video_that_is_merged(llava):
    inputs = video_inputs(frames=2)
    ids = inputs["input_ids"]
    ids[0, 4], ids[0, 12] = VIDEO_TOKEN, 7  # same count, with a hole
    with patched(llava, BOTH), refused("in one run"):
        llava(**inputs)


def test_every_check_comes_before_any_change():
    model = tiny_llava()
    before = state(model)
    with refused("merge"):
        patch(model, BOTH, visual_mask=mask_of())
    assert state(model) == before
