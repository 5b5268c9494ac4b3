"""A cache after its prefill: copied, cropped, with other rows."""

import contextlib
import copy
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from aim_cost import Schedule
from aim_runtime import PatchError, patched
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.cached_prompts import (
    GREEDY,
    KEPT,
    LOGITS,
    MODELS,
    PRUNED,
    QUESTIONS,
    RECOUNTED,
    WAYS,
    ask,
    cached,
    model_and_prompt,
    schedules_of,
    step,
)
from tests.runtime.support import (
    VIDEO_TOKEN,
    left_padded,
    tiny_llava,
    tiny_qwen2,
    video_inputs,
)


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """A model and a prompt; the model is left as it was."""
    return model_and_prompt(request.param)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_several_questions_to_copies_of_one_cache(case, way):
    model, inputs = case
    for schedule in schedules_of(model):
        with patched(model, schedule):
            alone = [ask(model, inputs, cached(model, inputs), question) for question in QUESTIONS]
            first = cached(model, inputs)
            for question, expected in zip(QUESTIONS, alone, strict=True):
                assert torch.equal(ask(model, inputs, way(first), question), expected)
            expected = step(model, cached(model, inputs))
            assert torch.equal(step(model, way(first)), expected)
            assert torch.equal(step(model, way(way(first))), expected)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_empty_schedule_does_with_caches_what_no_patch_does(case, way):
    model, inputs = case

    def everything(cache):
        return [
            *(ask(model, inputs, way(cache), question) for question in QUESTIONS),
            step(model, way(cache)),
        ]

    outside = cached(model, inputs)
    expected = everything(outside)
    with patched(model, Schedule()):
        inside = cached(model, inputs)
        found = [*everything(inside), *everything(outside)]
    found += everything(inside)
    for one, other in zip(found, expected * 3, strict=True):
        assert torch.equal(one, other)


def test_crop_takes_a_question_away(case):
    model, inputs = case
    for schedule in (Schedule(), *schedules_of(model)):
        with patched(model, schedule):
            alone = [ask(model, inputs, cached(model, inputs), question) for question in QUESTIONS]
            cache = cached(model, inputs)
            tokens = cache.get_seq_length()
            for question, expected in zip(QUESTIONS, alone, strict=True):
                assert torch.equal(ask(model, inputs, cache, question), expected)
                cache.crop(tokens - cache.get_seq_length())
            assert torch.equal(ask(model, inputs, cache, QUESTIONS[0]), alone[0])


def test_crop_does_not_cut_into_a_reduced_prompt():
    model, inputs = tiny_llava(), video_inputs()
    with patched(model, RECOUNTED):
        cache = cached(model, inputs)
        step(model, cache)
        step(model, cache)
        before = [layer.keys.clone() for layer in cache.layers]
        with pytest.raises(PatchError, match=r"at most the 2 tokens.*29 tokens.*crop\(-2\) leaves"):
            cache.crop(-3)
        assert all(map(torch.equal, (layer.keys for layer in cache.layers), before))
        cache.crop(-2)
        with pytest.raises(PatchError, match="Start a new cache"):
            cache.crop(-1)
        expected = step(model, cached(model, inputs))
        assert torch.equal(step(model, cache), expected)


@pytest.mark.parametrize("schedule", [RECOUNTED, KEPT, PRUNED], ids=Schedule.label)
@pytest.mark.parametrize("uneven", [False, True])
def test_other_rows(schedule, uneven):
    """Rows are chosen, swapped and repeated; each answers as its prompt does alone."""
    model = tiny_llava()
    prompts = [video_inputs(4, before=2), video_inputs(2 if uneven else 4, before=6, seed=3)]
    together = left_padded([{k: v for k, v in p.items() if "pixel" not in k} for p in prompts])
    videos = [p["pixel_values_videos"] for p in prompts]
    if uneven:
        # one video each, of 4 frames and of 2: as two videos and one
        first, second = prompts
        ids = first["input_ids"]
        ids = torch.cat([ids[:, :2], *[torch.full((1, 19), VIDEO_TOKEN)] * 2, ids[:, -7:]], dim=1)
        prompts[0] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": videos[0].view(2, 2, 3, 75, 75),
        }
        together = left_padded(
            [{k: v for k, v in p.items() if "pixel" not in k} for p in (prompts[0], second)]
        )
        videos = [prompts[0]["pixel_values_videos"], videos[1]]
    both = together | {"pixel_values_videos": torch.cat(videos)}

    def rows(index):
        return {name: part[index] for name, part in together.items()}

    with patched(model, schedule):
        alone = [ask(model, p, cached(model, p), QUESTIONS[0])[0] for p in prompts]
        for change, index in (
            (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
            (lambda cache: cache.batch_select_indices(torch.tensor([0])), [0]),
            (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0]),
            (lambda cache: cache.reorder_cache(torch.tensor([1, 1])), [1, 1]),
            (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
        ):
            cache = cached(model, both)
            change(cache)
            found = ask(model, rows(index), cache, QUESTIONS[0])
            for row, number in enumerate(index):
                torch.testing.assert_close(found[row], alone[number], rtol=0, atol=1e-4)
        cache = cached(model, both)
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([3, 0, 1]))
        cache = copy.deepcopy(cache)
        cache.batch_select_indices(torch.tensor([2, 0]))
        found = ask(model, rows([0, 1]), cache, QUESTIONS[0])
        for row in range(2):
            torch.testing.assert_close(found[row], alone[row], rtol=0, atol=1e-4)


def test_several_questions_at_once():
    model, inputs = tiny_llava(), video_inputs()
    questions = torch.tensor([[17, 18, 19], [31, 32, 33]])
    with patched(model, KEPT):
        alone = [ask(model, inputs, cached(model, inputs), q.tolist())[0] for q in questions]
        cache = cached(model, inputs)
        cache.batch_repeat_interleave(2)
        ids = torch.cat([inputs["input_ids"].expand(2, -1), questions], dim=1)
        output = model.generate(ids, **with_cache(cache), **GREEDY, **LOGITS)
    found = torch.stack(output.logits, dim=1)
    for row, expected in enumerate(alone):
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-5)


def test_a_cache_that_was_reset_takes_another_prompt(case):
    model, inputs = case
    for schedule in schedules_of(model):
        with patched(model, schedule):
            expected = ask(model, inputs, cached(model, inputs), QUESTIONS[0])
            cache = cached(model, inputs)
            step(model, cache)
            cache.reset()
            assert cache.get_seq_length() == 0
            with torch.no_grad():
                model(**inputs, **with_cache(cache))
            assert torch.equal(ask(model, inputs, cache, QUESTIONS[0]), expected)
            cache.reset()
        text = {"input_ids": torch.arange(9)[None]}
        plain = cached(model, text)
        with torch.no_grad():
            model(**text, **with_cache(cache))
        assert torch.equal(step(model, cache), step(model, plain))


def test_beams_and_drafts_leave_a_cache_that_goes_on():
    model, inputs = tiny_llava(), video_inputs()
    for schedule in (RECOUNTED, KEPT, PRUNED):
        with patched(model, schedule):
            for way in ({"prompt_lookup_num_tokens": 2}, {}):
                first = model.generate(
                    **inputs, **with_cache(DynamicCache()), **GREEDY, **way, **LOGITS
                )
                cache = cache_of(first)
                whole = {"input_ids": first.sequences}
                found = ask(model, whole, copy.deepcopy(cache), QUESTIONS[1])
                if way:
                    expected = found
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
            first = model.generate(**inputs, **GREEDY, num_beams=3, **LOGITS)
            cache = cache_of(first)
            best = cache.layers[0].keys.shape[0] // 3
            assert best == 1


class Doubling(DynamicLayer):
    """A layer of somebody's own, which keeps other values than it is given."""

    def update(self, key_states, value_states, *args, **kwargs):
        return super().update(key_states, 2 * value_states, *args, **kwargs)


def other_caches(config):
    """Caches that cannot hold layers of several lengths, or whose layers are of other kinds."""
    yield StaticCache(config=config, max_cache_len=80)
    sliding = DynamicCache()
    sliding.layers = [DynamicSlidingWindowLayer(sliding_window=20)] * config.num_hidden_layers
    yield sliding
    yield EncoderDecoderCache(DynamicCache(), DynamicCache())
    doubling = DynamicCache()
    doubling.layer_class_to_replicate = Doubling
    yield doubling


@pytest.mark.parametrize("schedule", [RECOUNTED, PRUNED], ids=Schedule.label)
def test_caches_of_other_kinds_are_refused_before_anything_runs(schedule):
    model, inputs = tiny_llava(), video_inputs()
    model.model.vision_tower.register_forward_hook(lambda *_: pytest.fail("it ran"))
    for name in ("static", "sliding_window", "offloaded_static", "quantized"):
        with patched(model, schedule), pytest.raises(PatchError, match=f"DynamicCache.*{name}"):
            model.generate(**inputs, **GREEDY, cache_implementation=name)
    for cache in other_caches(model.config.get_text_config()):
        with patched(model, schedule):
            for call in (model, partial(model.generate, **GREEDY)):
                with pytest.raises(PatchError, match="a DynamicCache of ordinary layers"):
                    call(**inputs, **with_cache(cache))


class NoStream:
    """A stream of a machine without a GPU: everything happens at once."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def wait_stream(self, other):
        pass


def poisoned(layer):
    """Away, as on another device: nothing but ``fetched`` makes it readable again."""
    layer.away = layer.keys, layer.values
    layer.keys, layer.values = (torch.full_like(x, math.nan) for x in layer.away)


def fetched(layer):
    if getattr(layer, "away", None) is not None:
        (layer.keys, layer.values), layer.away = layer.away, None


@pytest.mark.parametrize("schedule", [RECOUNTED, KEPT, PRUNED], ids=Schedule.label)
def test_a_cache_that_offloads_its_layers_goes_on(schedule, monkeypatch):
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: NoStream())
    monkeypatch.setattr(DynamicLayer, "offload", poisoned)
    monkeypatch.setattr(DynamicLayer, "prefetch", fetched)
    model, inputs, cache = tiny_llava(), video_inputs(), DynamicCache()
    cache.offloading, cache.only_non_sliding, cache.prefetch_stream = True, False, NoStream()
    with patched(model, schedule), torch.no_grad():
        expected = ask(model, inputs, cached(model, inputs), QUESTIONS[0])
        model(**inputs, **with_cache(cache))
        assert bool(cache.layers[3].keys.isnan().all())
        assert torch.equal(ask(model, inputs, cache, QUESTIONS[0]), expected)


def test_a_bare_language_model():
    model, mask = tiny_qwen2(), torch.arange(20)[None].remainder(17) >= 3
    embeds = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(2))
    inputs = {"inputs_embeds": embeds}
    with patched(model, PRUNED, visual_mask=mask):
        expected = step(model, cached(model, inputs))
        for way in WAYS.values():
            assert torch.equal(step(model, way(cached(model, inputs))), expected)
        cache, other = cached(model, inputs), cached(model, inputs)
    with patched(model, Schedule.parse("prune linear:0:3"), visual_mask=mask):
        assert torch.equal(step(model, cache), expected)
    with pytest.raises(PatchError, match="Go on inside a block"):
        step(model, other)


def test_an_error_inside_a_step_leaves_the_cache_closed():
    model, inputs = tiny_llava(), video_inputs()
    with patched(model, RECOUNTED):
        cache = cached(model, inputs)
        last = model.model.language_model.layers[-1]
        handle = last.register_forward_hook(lambda *_: 1 / 0)
        with contextlib.suppress(ZeroDivisionError):
            step(model, cache)
        handle.remove()
    with pytest.raises(PatchError, match="Go on inside a block"):
        step(model, cache)


def test_what_the_page_shows_runs():
    page = Path(__file__).parents[2] / "docs" / "patching.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    model, inputs, question = tiny_llava(), video_inputs(), torch.tensor([QUESTIONS[0]])
    names = {"model": model, "inputs": inputs, "questions": [question, question]}
    exec(code, names | {"patched": patched, "torch": torch, "schedule": KEPT}, found := {})
    with patched(model, KEPT):
        first = ask(model, inputs, cached(model, inputs), QUESTIONS[0])
    assert found["answer"][0, -64:-61].tolist() == first[0].argmax(-1).tolist()
