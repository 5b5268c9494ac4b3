"""Qwen2-VL and Qwen2.5-VL: sampling, beams, loops by hand, further turns, and what is refused."""

import inspect
from contextlib import nullcontext

import pytest
import torch

from aim_cost import Schedule
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, patched
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.qwen import KINDS, qwen_inputs, rope_table, short, tiny_qwen
from tests.runtime.support import state
from tests.runtime.test_qwen import (
    BOTH,
    LONG,
    PICTURE,
    PROMPTS,
    SCHEDULES,
    SMALL,
    VIDEO,
    Expected,
    alone,
)

GREEDY = {"do_sample": False, "max_new_tokens": 3}
LOGITS = {"return_dict_in_generate": True, "output_logits": True}
UNEVEN = [[2, PICTURE, 1, SMALL, 3], [1, LONG, 3]]
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return tiny_qwen(kind)


def by_hand(model, inputs, steps, **more):
    """Logits [B, steps, V] of a greedy loop behind ``model(**inputs)``, and its cache."""
    output, seen = model(**inputs), []
    for _ in range(steps):
        seen.append(output.logits[:, -1])
        word = seen[-1].argmax(-1, keepdim=True)
        output = model(input_ids=word, **with_cache(cache_of(output)), **more)
    return torch.stack(seen, dim=1), cache_of(output)


def every_way(model, kind):
    """What a model says to many prompts in many ways."""
    found = []
    for rows in (UNEVEN, PROMPTS["images and videos"], PROMPTS["a row of text"], PROMPTS["text"]):
        inputs = qwen_inputs(kind, *rows)
        found.append(model(**inputs).logits)
        found.append(model.generate(**inputs, **GREEDY))
    inputs = qwen_inputs(kind, *UNEVEN)
    found.append(model.generate(**inputs, **GREEDY, num_beams=2))
    torch.manual_seed(0)
    found.append(model.generate(**inputs, max_new_tokens=3, do_sample=True, num_return_sequences=2))
    inputs = qwen_inputs(kind, [2, VIDEO, 3])
    found.append(by_hand(model, inputs, 3)[0])
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    found.append(model.generate(**follow_up(inputs, first), **GREEDY))
    return found


def follow_up(inputs, first, words=4):
    """The conversation so far and more words, whose vision is in the cache."""
    more = torch.randint(0, 200, (len(first.sequences), words))
    more[:] = torch.arange(words) + 50
    ids = torch.cat([first.sequences, more], dim=1)
    new = ids.shape[1] - inputs["input_ids"].shape[1]
    ones = torch.ones(len(ids), new, dtype=torch.long)
    copies = len(ids) // len(inputs["input_ids"])
    mask, types = (
        torch.cat([inputs[name].repeat_interleave(copies, dim=0), tail], dim=1)
        for name, tail in (("attention_mask", ones), ("mm_token_type_ids", ones * 0))
    )
    call = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
    return call | with_cache(cache_of(first))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_empty_schedule_changes_no_bit(model, kind, attention):
    model.set_attn_implementation(attention)
    expected, before = every_way(model, kind), state(model)
    with patched(model, Schedule()):
        found = every_way(model, kind)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    deltas = model.model.rope_deltas
    with patched(model, BOTH):
        every_way(model, kind)
    assert state(model) == before
    assert model.model.rope_deltas is deltas
    for one, other in zip(every_way(model, kind), expected, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_after_the_empty_schedule_a_cache_goes_on_where_it_was(model, kind):
    """Positions after a prompt are those of the last one that ran, inside a block or not."""

    def decoded(block):
        model(**qwen_inputs(kind, [2, VIDEO, 3]))
        with block:
            output = model(**qwen_inputs(kind, [4, LONG, 2]), use_cache=True)
            inside = model(input_ids=torch.tensor([[7]]), **with_cache(cache_of(output))).logits
        after = model(input_ids=torch.tensor([[9]]), **with_cache(cache_of(output))).logits
        return inside, after, model.model.rope_deltas

    for found, expected in zip(
        decoded(patched(model, Schedule())), decoded(nullcontext()), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
@pytest.mark.parametrize("way", [{"num_beams": 3}, {"num_return_sequences": 3, "do_sample": True}])
def test_several_sequences_of_each_prompt(model, kind, schedule, way):
    inputs = qwen_inputs(kind, *UNEVEN)
    options = {"max_new_tokens": 4, "output_scores": True, **LOGITS, "do_sample": False} | way
    with patched(model, schedule):
        output = model.generate(**inputs, **options)
    copies = way.get("num_return_sequences", 1)
    prompt = inputs["input_ids"].shape[1]
    assert torch.equal(
        output.sequences[:, :prompt], inputs["input_ids"].repeat_interleave(copies, dim=0)
    )
    for number, row in enumerate(UNEVEN):
        expected = Expected(model, row, alone(kind, UNEVEN, inputs, number), schedule)
        for copy in range(number * copies, (number + 1) * copies):
            new = output.sequences[copy, prompt:]
            logits = expected.teacher(model, new)
            if copies > 1:
                seen = torch.stack(output.logits, dim=1)[copy]
                torch.testing.assert_close(seen, logits, **TOLERANCE)
            else:
                score = logits.log_softmax(-1).gather(1, new[:, None]).mean()
                torch.testing.assert_close(output.sequences_scores[copy], score, **TOLERANCE)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
def test_a_loop_by_hand(model, kind, schedule, masked):
    row = [4, LONG, 2]
    inputs = qwen_inputs(kind, row)
    table = rope_table(model, inputs)
    with patched(model, schedule):
        output, seen = model(**inputs), []
        mask = inputs["attention_mask"]
        for _ in range(4):
            seen.append(output.logits[0, -1])
            mask = torch.cat([mask, mask[:, :1]], dim=1)  # of the caller's full prompt
            output = model(
                input_ids=seen[-1].argmax(-1).view(1, 1),
                **with_cache(cache_of(output)),
                **{"attention_mask": mask} if masked else {},
            )
    expected = Expected(model, row, inputs, schedule)
    assert int(table.max()) > int(table[0, 0, -1]) or kind != "qwen2.5-vl"
    new = torch.stack(seen).argmax(-1)
    logits = expected.teacher(model, new, first=int(table.max()) + 1)
    torch.testing.assert_close(torch.stack(seen), logits, **TOLERANCE)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
def test_a_loop_by_hand_over_padded_prompts(model, kind, schedule):
    inputs = qwen_inputs(kind, *UNEVEN)
    with patched(model, schedule):
        output, seen, mask = model(**inputs), [], inputs["attention_mask"]
        for _ in range(3):
            seen.append(output.logits[:, -1])
            mask = torch.cat([mask, mask[:, -1:]], dim=1)
            output = model(
                input_ids=seen[-1].argmax(-1, keepdim=True),
                attention_mask=mask,
                **with_cache(cache_of(output)),
            )
        for number in range(2):
            one, _ = by_hand(model, alone(kind, UNEVEN, inputs, number), 3)
            torch.testing.assert_close(torch.stack(seen, dim=1)[number], one[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
def test_a_cache_goes_on_after_its_own_prompt(model, kind, schedule):
    inputs, other = qwen_inputs(kind, [4, VIDEO, 5]), qwen_inputs(kind, [2, PICTURE, 1, LONG, 3])
    text = {"input_ids": inputs["input_ids"][:, :3]}
    with patched(model, schedule):
        expected, _ = by_hand(model, inputs, 3)
        plain, _ = by_hand(model, text, 3)
        output = model(**inputs)
        words = output.logits[:, -1:].argmax(-1)
        model(**other)
        output = model(input_ids=words, **with_cache(cache_of(output)))
        torch.testing.assert_close(output.logits[:, -1], expected[:, 1], rtol=0, atol=1e-5)
        model.generate(**other, **GREEDY)
        found, _ = by_hand(model, text, 3)
        assert torch.equal(found, plain)
        output = model(**text)
        model(**other)
        output = model(input_ids=plain[:, :1].argmax(-1), **with_cache(cache_of(output)))
        assert torch.equal(output.logits[:, -1], plain[:, 1])
        first = model.generate(**inputs, **GREEDY, **LOGITS)
        second = model.generate(**follow_up(inputs, first), **GREEDY, **LOGITS)
        first = model.generate(**inputs, **GREEDY, **LOGITS)
        model(**other)
        again = model.generate(**follow_up(inputs, first), **GREEDY, **LOGITS)
    assert torch.equal(torch.stack(second.logits), torch.stack(again.logits))
    assert torch.equal(plain, by_hand(tiny_qwen(kind), text, 3)[0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
@pytest.mark.parametrize("with_pixels", [True, False])
def test_a_second_turn_sees_what_the_first_kept(model, kind, schedule, attention, with_pixels):
    model.set_attn_implementation(attention)
    inputs = qwen_inputs(kind, *UNEVEN)
    prompt = inputs["input_ids"].shape[1]
    with patched(model, schedule) as trace:
        first = model.generate(**inputs, **GREEDY, **LOGITS)
        rows = trace.rows
        call = follow_up(inputs, first)
        second = model.generate(**(inputs if with_pixels else {}) | call, **GREEDY, **LOGITS)
        assert trace.rows == rows
    assert torch.equal(second.sequences[:, :-3], call["input_ids"])
    seen = torch.stack([*first.logits, *second.logits], dim=1)
    for number, row in enumerate(UNEVEN):
        one = alone(kind, UNEVEN, inputs, number)
        expected = Expected(model, row, one, schedule)
        new = second.sequences[number, prompt:]
        # the last of the first turn and all behind it go on from the greatest position
        start, top = int(expected.positions[0, -1]) + 1, int(rope_table(model, one).max()) + 1
        places = [start, start + 1, *range(top + 2, top + len(new) - 1)]
        logits = expected.teacher(model, new, first=torch.tensor(places))
        torch.testing.assert_close(seen[number, :3], logits[:3], **TOLERANCE)
        torch.testing.assert_close(seen[number, 3:], logits[-3:], **TOLERANCE)


def test_a_second_turn_of_several_sequences(model, kind):
    inputs = qwen_inputs(kind, *UNEVEN)
    options = GREEDY | {"do_sample": True, "top_k": 1}
    with patched(model, BOTH):
        first = model.generate(**inputs, **options, **LOGITS, num_return_sequences=2)
        both = model.generate(**follow_up(inputs, first), **GREEDY)
        first = model.generate(**inputs, **options, **LOGITS)
        once = model.generate(**follow_up(inputs, first), **GREEDY)
    assert torch.equal(both, once.repeat_interleave(2, dim=0))


def test_features_given(model, kind):
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this version of transformers takes no ready features")
    inputs = qwen_inputs(kind, [3, VIDEO, 4])
    with patched(model, BOTH):
        expected = model(**inputs).logits
        features = model.model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"]
        )
        ready = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
        ready["mm_encoder_outputs"] = {"video": features}
        assert torch.equal(model(**ready).logits, expected)
        del ready["video_grid_thw"]
        with pytest.raises(PatchError, match="grids"):
            model(**ready)


def test_rope_index_of_other_prompts_is_the_stock_one(model, kind):
    inputs, others = qwen_inputs(kind, [3, VIDEO, 4]), qwen_inputs(kind, *UNEVEN)
    expected = [rope_table(model, one) for one in (inputs, others)]
    with patched(model, BOTH):
        for _ in range(2):
            for one, table in zip((inputs, others), expected, strict=True):
                assert torch.equal(rope_table(model, one), table)
            model(**inputs)


def test_a_prompt_that_is_short_already_is_refused(model, kind):
    inputs = qwen_inputs(kind, [3, VIDEO, 4])
    with patched(model, BOTH):
        for call in (model, model.generate):
            with pytest.raises(PatchError, match="36 video placeholders"):
                call(**short(inputs))


def test_pruning_embeddings(model):
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, 3:15] = True
    schedule = Schedule(prune=Prune(ratios=(1, 0.5)))
    with patched(model, schedule, visual_mask=mask) as trace:
        model(inputs_embeds=torch.randn(1, 20, 64))
    assert trace.tokens.attention_tokens == (20, 20, 14, 14)
