"""A cache outside its block, in another block, of another model or another conversation."""

import copy

import pytest
import torch
from transformers import DynamicCache

from aim_cost import Schedule
from aim_runtime import PatchError, patched
from aim_runtime.seams import cache_of
from tests.runtime.cached_prompts import (
    GREEDY,
    KEPT,
    MODELS,
    PRUNED,
    QUESTIONS,
    RECOUNTED,
    REDUCING,
    WAYS,
    ask,
    cached,
    model_and_prompt,
    schedules_of,
    step,
)
from tests.runtime.support import (
    left_padded,
    tiny_llava,
    video_inputs,
)


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """A model and a prompt; the model is left as it was."""
    return model_and_prompt(request.param)


@pytest.mark.parametrize("way", [lambda cache: cache, *WAYS.values()], ids=["itself", *WAYS])
def test_outside_of_the_block_the_error_names_it(case, way):
    model, inputs = case
    for schedule in schedules_of(model):
        with patched(model, schedule):
            caches = [cached(model, inputs) for _ in range(2)]
            generated = cache_of(model.generate(**inputs, **GREEDY, return_dict_in_generate=True))
        for cache in (*caches, generated):
            if schedule.merge is None and schedule.prune is None:
                step(model, way(cache))  # the tower alone has merged: an ordinary cache
                continue
            says = r"reduced inside a patched block.*Go on inside a block"
            with pytest.raises(PatchError, match=says):
                step(model, way(cache))
            with pytest.raises(PatchError, match=says):
                ask(model, inputs, way(cache), QUESTIONS[0])


def test_text_that_no_schedule_reduced_goes_on_anywhere():
    model = tiny_llava()
    text = {"input_ids": torch.arange(9)[None]}
    expected = step(model, cached(model, text))
    for schedule in REDUCING:
        with patched(model, schedule):
            caches = [cached(model, text) for _ in range(3)]
            assert torch.equal(step(model, caches[0]), expected)
        assert torch.equal(step(model, caches[1]), expected)
        with patched(model, KEPT):
            assert torch.equal(step(model, caches[2]), expected)


def test_another_block_goes_on_as_its_own_did(case):
    model, inputs = case
    for schedule in schedules_of(model):
        with patched(model, schedule):
            expected = ask(model, inputs, cached(model, inputs), QUESTIONS[0])
            word = step(model, cached(model, inputs))
            caches = [cached(model, inputs) for _ in range(8)]
        for other in (schedule, RECOUNTED, KEPT, PRUNED):
            with patched(model, other):
                assert torch.equal(ask(model, inputs, caches.pop(), QUESTIONS[0]), expected)
                assert torch.equal(step(model, caches.pop()), word)


def test_a_cache_from_outside_goes_on_where_nothing_is_merged(case):
    model, inputs = case
    expected = ask(model, inputs, cached(model, inputs), QUESTIONS[0])
    by_hand = step(model, cached(model, inputs))
    caches = [cached(model, inputs) for _ in range(3)]
    with patched(model, PRUNED):
        assert torch.equal(step(model, caches[1]), by_hand)
        assert torch.equal(ask(model, inputs, caches[0], QUESTIONS[0]), expected)
    with patched(model, KEPT), pytest.raises(PatchError, match="of which nothing is known"):
        ask(model, inputs, caches[2], QUESTIONS[0])


def test_a_cache_put_together_from_its_tensors_is_unknown():
    model, inputs = tiny_llava(), video_inputs()
    for schedule in (RECOUNTED, KEPT, PRUNED):
        with patched(model, schedule):
            tensors = [(layer.keys, layer.values) for layer in cached(model, inputs).layers]
            with pytest.raises(PatchError, match="of which nothing is known"):
                step(model, DynamicCache(tensors))
            with pytest.raises(PatchError, match="of which nothing is known"):
                ask(model, inputs, DynamicCache(tensors), QUESTIONS[0])


@pytest.mark.parametrize(
    "other", [lambda: tiny_llava(4), lambda: tiny_llava(8)], ids=["fewer", "more"]
)
def test_a_cache_of_another_model(other):
    model, other, inputs = tiny_llava(6), other(), video_inputs()
    with patched(model, PRUNED), patched(other, PRUNED):
        cache = cached(model, inputs)
        with pytest.raises(PatchError, match=r"a cache of this model, of \d layers.*of 6 layers"):
            step(other, cache)
        with pytest.raises(PatchError, match=r"a cache of this model"):
            ask(other, inputs, cache, QUESTIONS[0])
        step(model, cache)


@pytest.mark.parametrize("schedule", [RECOUNTED, KEPT, PRUNED], ids=Schedule.label)
def test_another_conversation_than_the_cached_one(schedule):
    model, inputs, other = tiny_llava(), video_inputs(), video_inputs(seed=8)
    with patched(model, schedule):
        first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        cache, says = cache_of(first), "begins with the 51 tokens"
        with pytest.raises(PatchError, match=f"{says}.*other tokens from place 0"):
            ask(model, other, copy.deepcopy(cache), [1, 2, 3, 4])
        # the question of before is still in the cache
        with pytest.raises(PatchError, match=f"{says}.*other tokens from place 49.*crop"):
            ask(model, inputs, copy.deepcopy(cache), [1, 2, 3, 4])
        whole = {"input_ids": first.sequences}
        again = ask(model, whole, copy.deepcopy(cache), [1, 2, 3])
        cache.crop(-2)
        expected = ask(model, inputs, cached(model, inputs), [1, 2, 3])
        assert torch.equal(ask(model, inputs, cache, [1, 2, 3]), expected)
        assert not torch.equal(again, expected)


@pytest.mark.parametrize("schedule", [RECOUNTED, KEPT, PRUNED], ids=Schedule.label)
def test_padding_may_be_written_in_other_ids(schedule):
    model = tiny_llava()
    prompts = [video_inputs(before=2), video_inputs(before=6, seed=3)]
    both = left_padded(prompts)
    with patched(model, schedule):
        expected = ask(model, both, cached(model, both), QUESTIONS[0])
        cache = cached(model, both)
        ids = both["input_ids"].masked_fill(both["attention_mask"] == 0, 77)
        found = ask(model, both | {"input_ids": ids}, cache, QUESTIONS[0])
    assert torch.equal(found, expected)
