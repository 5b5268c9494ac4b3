"""Qwen2-VL and Qwen2.5-VL: what a patched model refuses, and positions that serve one prompt."""

import pytest
import torch

from aim_cost import Schedule
from aim_cost.errors import ScheduleError
from aim_cost.schedules.merge import Merge
from aim_runtime import PatchError, patch, patched, unpatch
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.qwen import KINDS, qwen_inputs, rope_table, tiny_qwen
from tests.runtime.support import VIDEO_TOKEN
from tests.runtime.test_qwen import BOTH, LITTLE, PICTURE, SMALL, VIDEO
from tests.runtime.test_qwen_turns import GREEDY, LOGITS, follow_up


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return tiny_qwen(kind)


def wrong(name, change):
    return lambda inputs: inputs | {name: change(inputs.get(name))}


def without(*names):
    return lambda inputs: {name: value for name, value in inputs.items() if name not in names}


WRONG = {
    "no types": (without("mm_token_type_ids"), "mm_token_type_ids"),
    "other types": (wrong("mm_token_type_ids", lambda x: x * 0), "mm_token_type_ids"),
    "types of images": (wrong("mm_token_type_ids", lambda x: x.clamp(max=1)), "mm_token_type_ids"),
    "types of another length": (
        wrong("mm_token_type_ids", lambda x: x[:, 1:]),
        "mm_token_type_ids",
    ),
    "no grid": (without("video_grid_thw"), "video_grid_thw"),
    "another grid": (
        wrong("video_grid_thw", lambda x: x + torch.tensor([1, 0, 0])),
        "video_grid_thw",
    ),
    "a grid turned": (wrong("video_grid_thw", lambda x: x[:0]), "video_grid_thw"),
    "no pixels": (without("pixel_values_videos"), "pixels behind its placeholders"),
    "no video": (without("pixel_values_videos", "video_grid_thw"), "pixels behind"),
    "a placeholder too few": (
        lambda inputs: {
            name: torch.cat([x[:, :8], x[:, 9:]], dim=1) if "ids" in name or "mask" in name else x
            for name, x in inputs.items()
        },
        "36 video placeholders",
    ),
    "positions of a short prompt": (
        wrong("position_ids", lambda x: torch.zeros(3, 1, 21, dtype=torch.long)),
        "position_ids",
    ),
}


@pytest.mark.parametrize(("change", "match"), WRONG.values(), ids=WRONG)
def test_refuses_what_merging_cannot_serve(model, kind, change, match):
    inputs = qwen_inputs(kind, [3, VIDEO, 4])
    call = change(inputs)
    with patched(model, BOTH):
        expected = model(**inputs).logits
        for run in (model, lambda **more: model.generate(**more, **GREEDY)):
            with pytest.raises(PatchError, match=match):
                run(**call)
        assert torch.equal(model(**inputs).logits, expected)


def test_refuses_videos_without_text_between(model, kind):
    inputs = qwen_inputs(kind, [3, SMALL, SMALL, 4])
    keep = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    places = (inputs["input_ids"][0] == VIDEO_TOKEN).nonzero()[:, 0]
    keep[places[7] + 1 : places[8]] = False  # the end of one and the start of the other
    names = ("input_ids", "attention_mask", "mm_token_type_ids")
    with patched(model, BOTH), pytest.raises(PatchError, match="text between two videos"):
        model(**inputs | {name: inputs[name][:, keep] for name in names})


def test_refuses_frames_without_text_between():
    inputs = qwen_inputs("qwen3-vl", [3, SMALL, 4])
    keep = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    places = (inputs["input_ids"][0] == VIDEO_TOKEN).nonzero()[:, 0]
    keep[places[3] + 1 : places[4]] = False  # the timestamp and its markers
    names = ("input_ids", "attention_mask", "mm_token_type_ids")
    call = inputs | {name: inputs[name][:, keep] for name in names}
    model = tiny_qwen("qwen3-vl")
    match = "text between the 2 temporal patches.*runs of 8"
    with patched(model, BOTH), pytest.raises(PatchError, match=match):
        model(**call)


def test_refuses_passes_for_groups_of_several_sizes(model, kind):
    inputs = qwen_inputs(kind, [3, PICTURE, 1, LITTLE, 4])
    schedule = Schedule(Merge(passes=(6, 3)))
    with patched(model, schedule), pytest.raises(ScheduleError, match="one pass removes"):
        model(**inputs)


def test_refuses_new_visual_tokens_behind_a_cache(model, kind):
    inputs = qwen_inputs(kind, [3, VIDEO, 4])
    with patched(model, BOTH):
        first = model.generate(**inputs, **GREEDY, **LOGITS)
        call = follow_up(inputs, first)
        call["input_ids"][:, -2] = VIDEO_TOKEN
        with pytest.raises(PatchError, match="new images and videos"):
            model.generate(**call, **GREEDY)
        with pytest.raises(PatchError, match="new images and videos"):
            model(input_ids=call["input_ids"][:, -3:], **with_cache(cache_of(first)))


def test_a_prompt_that_failed_leaves_nothing_to_the_next(model, kind):
    inputs, turned = (qwen_inputs(kind, [3, video, 4]) for video in (VIDEO, (3, 8, 6)))
    table = rope_table(model, inputs)

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with patched(model, BOTH):
        expected = model(**inputs).logits
        for run in (model, lambda **call: model.generate(**call, **GREEDY)):
            hook = model.model.visual.register_forward_pre_hook(fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                run(**turned)
            hook.remove()
            assert torch.equal(rope_table(model, inputs), table)
            assert torch.equal(model(**inputs).logits, expected)


def test_positions_of_the_caller_s_prompt(model, kind):
    inputs = qwen_inputs(kind, [3, VIDEO, 4])
    table = rope_table(model, inputs)
    with patched(model, BOTH):
        expected, words = model(**inputs).logits, model.generate(**inputs, **GREEDY)
        assert torch.equal(model(**inputs, position_ids=table).logits, expected)
        shifted = model(**inputs, position_ids=table + 5).logits
        torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-4)
        assert torch.equal(model.generate(**inputs, position_ids=table + 5, **GREEDY), words)
        turned = model(**inputs, position_ids=table[[0, 2, 1]]).logits
    assert (turned[:, -1] - expected[:, -1]).abs().max() > 1e-3


def test_patching_twice_is_refused_and_harmless(model):
    patch(model, BOTH)
    with pytest.raises(PatchError, match="patched"):
        patch(model, BOTH)
    unpatch(model)
    assert "get_rope_index" not in vars(model.model)


def test_refuses_seconds_of_other_videos():
    inputs = qwen_inputs("qwen2.5-vl", [3, VIDEO, 4])
    inputs["second_per_grid_ts"] = inputs["second_per_grid_ts"].repeat(2)
    model = tiny_qwen("qwen2.5-vl")
    with patched(model, BOTH), pytest.raises(PatchError, match="second_per_grid_ts"):
        model(**inputs)
