"""LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video: every prompt that they take, against the reference."""

import pytest
import torch

from aim_cost import Schedule
from aim_cost.schedules.merge import MERGE_KINDS, Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, patched
from tests.runtime.agree import GREEDY, check
from tests.runtime.models import (
    BUILDERS,
    NAMES,
    WIDE,
    named_inputs,
    prompt_of,
    tiny_llava_15,
    tiny_next_video,
)
from tests.runtime.support import VIDEO_TOKEN

AFTER = Prune(ratios=(1, 0.5, 0.5, 0.25), drop_point="after_attention")
SCHEDULES = {
    "both-sdpa": Schedule(Merge(retention=0.6), Prune(linear=(1, 4))),
    "kept-eager": Schedule(Merge(retention=0.4, positions="kept"), AFTER),
    "pruned-sdpa": Schedule(prune=AFTER),
    "text-eager": Schedule(
        Merge(tokens_per_frame=4), Prune(ratios=(0.5,), importance="text-attention")
    ),
}


@pytest.mark.parametrize("how", SCHEDULES)
@pytest.mark.parametrize(("family", "name"), NAMES)
def test_every_prompt_equals_the_reference(family, name, how):
    model = BUILDERS[family]()
    model.set_attn_implementation(how.rpartition("-")[2])
    check(model, named_inputs(model, family, name), SCHEDULES[how])


@pytest.mark.parametrize("by", [by for by in MERGE_KINDS if by != "similarity"])
@pytest.mark.parametrize(
    ("family", "name"),
    [("llava-1.5", "other numbers"), ("next", "other prompts"), ("next-video", "other prompts")],
)
def test_other_ways_to_merge(family, name, by):
    model = BUILDERS[family]()
    schedule = Schedule(Merge(retention=0.4, by=by, positions="kept"), Prune(linear=(1, 4)))
    check(model, named_inputs(model, family, name), schedule)


def test_named_passes():
    model = tiny_llava_15()
    inputs = named_inputs(model, "llava-1.5", "several images")
    trace = check(model, inputs, Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4))))
    assert trace.tokens.merge_tokens == (9, 5, 3)


@pytest.mark.parametrize("positions", ["recounted", "kept"])
def test_the_class_token_is_one_of_the_tokens(positions):
    model = tiny_llava_15(select="full")
    inputs = prompt_of(model, (4, "image", 3, "image", 5))
    schedule = Schedule(Merge(tokens_per_frame=4, positions=positions), Prune(linear=(1, 4)))
    trace = check(model, inputs, schedule)
    assert (trace.tokens.groups, trace.tokens.merge_tokens[0]) == (2, 10)


def test_a_selection_that_the_call_names():
    model, other = tiny_llava_15(), tiny_llava_15(select="full")
    schedule = Schedule(Merge(tokens_per_frame=4), Prune(linear=(1, 4)))
    inputs = prompt_of(other, (4, "image", 5))
    with patched(other, schedule):
        expected = other(**inputs).logits, other.generate(**inputs, **GREEDY)
    full = inputs | {"vision_feature_select_strategy": "full"}
    with patched(model, schedule):
        assert torch.equal(model(**full).logits, expected[0])
        assert torch.equal(model.generate(**full, **GREEDY), expected[1])


INSIDE = (SCHEDULES["both-sdpa"], "merge frame:4 positions=kept", "select 0.45 score=random")


@pytest.mark.parametrize("inside", [3, 30])
@pytest.mark.parametrize("schedule", INSIDE, ids=str)
def test_a_video_inside_an_image_that_is_shortened_is_refused(schedule, inside):
    """All are placeholders there, but not those of one: the wrong ones would leave."""
    model = tiny_next_video()
    inputs = nested(model, inside)
    with patched(model, schedule):
        for call in (model, model.generate):
            with pytest.raises(PatchError, match="of one image in one run, got other tokens"):
                call(**inputs)


def test_a_video_inside_an_image_is_pruned_with_it():
    model = tiny_next_video()
    check(model, nested(model, 3), SCHEDULES["pruned-sdpa"])


def nested(model, inside):
    """A prompt whose video stands ``inside`` tokens after the beginning of its image."""
    inputs = prompt_of(model, [4, WIDE, "video 1", 5])
    ids = inputs["input_ids"][0]
    video = ids == VIDEO_TOKEN
    rest, own = ids[~video], ids[video]
    place = 4 + inside
    return inputs | {"input_ids": torch.cat([rest[:place], own, rest[place:]])[None]}
