"""A cache after its prefill: copied, cropped, with other rows, in another block or in none."""

import contextlib
import copy
import io
import pickle
import re
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, StaticCache

from aim_cost import Schedule
from aim_runtime import PatchError, patched
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.qwen import qwen_inputs, tiny_qwen
from tests.runtime.support import (
    VIDEO_TOKEN,
    left_padded,
    tiny_llava,
    tiny_qwen2,
    video_inputs,
)

GREEDY = {"max_new_tokens": 3, "do_sample": False}
LOGITS = {"return_dict_in_generate": True, "output_logits": True}
RECOUNTED = Schedule.parse("merge 0.5, prune linear:1:3")
KEPT = Schedule.parse("merge 0.5 positions=kept, prune linear:1:3 drop=after-attention")
PRUNED = Schedule.parse("prune linear:1:3")
REDUCING = [RECOUNTED, KEPT, PRUNED, Schedule.parse("merge 0.5"), Schedule.parse("vision-merge 4")]
QUESTIONS = ([17, 18, 19], [31, 32], [5, 6, 7, 8, 9])


def reloaded(cache):
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
    "a file": reloaded,
}


@pytest.fixture(scope="module", params=["llava", "qwen2.5-vl"])
def case(request):
    """A model and a prompt with a video; the model is left as it was."""
    if request.param == "llava":
        return tiny_llava(), video_inputs()
    return tiny_qwen("qwen2.5-vl"), qwen_inputs("qwen2.5-vl", [4, (2, 8, 8), 3])


def schedules_of(model):
    has_siglip = hasattr(model.model, "vision_tower")
    return [s for s in REDUCING if has_siglip or s.vision_merge is None]


def cached(model, inputs):
    """The cache of a prompt after its prefill."""
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.all()):  # as generate counts them, before and after
        inputs = inputs | {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        return cache_of(model(**inputs, use_cache=True))


def ask(model, inputs, cache, question, **more):
    """Logits [B, new, V] of an answer to ``question``, after the prompt that is cached."""
    words = torch.tensor(question).expand(len(inputs["input_ids"]), -1)
    call = {"input_ids": torch.cat([inputs["input_ids"], words], dim=1)}
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            tail = torch.full_like(words, fill)
            call[name] = torch.cat([inputs[name], tail], dim=1)
    output = model.generate(**call, **with_cache(cache), **GREEDY, **LOGITS, **more)
    assert torch.equal(output.sequences[:, : call["input_ids"].shape[1]], call["input_ids"])
    return torch.stack(output.logits, dim=1)


def step(model, cache, word=9):
    """Logits of one more token, by hand."""
    rows = torch.full((cache.layers[0].keys.shape[0], 1), word)
    with torch.no_grad():
        return model(input_ids=rows, **with_cache(cache)).logits


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


@pytest.mark.parametrize("schedule", [RECOUNTED, PRUNED], ids=Schedule.label)
def test_caches_of_fixed_size_are_refused_before_anything_runs(schedule):
    model, inputs = tiny_llava(), video_inputs()
    fixed = StaticCache(config=model.config.get_text_config(), max_cache_len=80)
    with patched(model, schedule):
        for call in (
            lambda: model(**inputs, **with_cache(fixed)),
            lambda: model.generate(**inputs, **with_cache(fixed), **GREEDY),
            lambda: model.generate(**inputs, **GREEDY, cache_implementation="static"),
        ):
            with pytest.raises(PatchError, match="DynamicCache"):
                call()


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
