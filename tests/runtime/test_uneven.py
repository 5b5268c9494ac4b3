"""Batches whose rows hold different images and videos: each row as it would run alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aim_cost import Schedule
from aim_cost.schedules.merge import POSITIONS, Merge
from aim_cost.schedules.prune import DROP_POINTS, Prune
from aim_runtime import PatchError, patched
from aim_runtime.reduction.uneven import padded_mask, select_rows
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.slow_scores import ANYWHERE
from tests.runtime.support import (
    FRAME_TOKENS,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    left_padded,
    tiny_llava,
    tiny_qwen2,
)

GREEDY = {"max_new_tokens": 4, "do_sample": False}
BOTH = Schedule(Merge(passes=(5, 3)), Prune(ratios=(1, 0.5, 0.5, 0.25)))
PRUNED = Schedule(prune=Prune(ratios=(1, 0.5, 0.2)))


def text(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (count,), generator=generator).tolist()


def prompt(videos, seed, *, before=2, after=3):
    """A prompt of that many videos of two frames each, and text around them."""
    run = [VIDEO_TOKEN] * (2 * FRAME_TOKENS + 1)
    ids = text(before, seed)
    for number in range(videos):
        ids += [*run, *text(1, seed + number)]
    inputs = {"input_ids": torch.tensor([ids + text(after, seed)])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if videos:
        generator = torch.Generator().manual_seed(seed)
        inputs["pixel_values_videos"] = torch.randn(videos, 2, 3, 75, 75, generator=generator)
    return inputs


def batch(prompts):
    """One batch, padded on the left; rows without pixels add none."""
    tokens = left_padded([{n: p[n] for n in ("input_ids", "attention_mask")} for p in prompts])
    for name in ("pixel_values_videos", "pixel_values", "image_sizes", "batch_num_images"):
        parts = [p[name] for p in prompts if name in p]
        if parts:
            tokens[name] = torch.cat(parts)
    return tokens


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    videos=st.lists(st.integers(0, 3), min_size=2, max_size=3).filter(
        lambda numbers: len(set(numbers)) > 1  # where rows are alike, padding counts as text
    ),
    texts=st.lists(st.integers(1, 40), min_size=3, max_size=3),
    merge=st.none()
    | st.builds(
        Merge, passes=st.sampled_from([(5,), (5, 3)]), positions=st.sampled_from(POSITIONS)
    ),
    ratios=st.sampled_from([(1, 0.5, 0.5, 0.25), (0.3,), (0.5, 0), (1, 1, 1, 1, 0.1)]),
    ranking=st.sampled_from(ANYWHERE),
    attention=st.sampled_from(["sdpa", "eager"]),
)
def test_rows_run_as_they_would_alone(videos, texts, merge, ratios, ranking, attention):
    llava = tiny_llava(layers=5)
    llava.set_attn_implementation(attention)
    schedule = Schedule(merge, Prune(ratios=ratios, **ranking))
    prompts = [
        prompt(number, seed, after=after)
        for seed, (number, after) in enumerate(zip(videos, texts, strict=False))
    ]
    with patched(llava, schedule) as trace:
        together = llava(**batch(prompts)).logits[:, -1]
        rows, kept = trace.rows, trace.kept
        new = llava.generate(**batch(prompts), **GREEDY)[:, -4:]
        for row, alone in enumerate(prompts):
            logits = llava(**alone).logits[0, -1]
            torch.testing.assert_close(together[row], logits, rtol=0, atol=1e-5)
            assert rows[row] == trace.tokens
            for layer, (all_rows, one_row) in enumerate(zip(kept, trace.kept, strict=True)):
                ours, count = all_rows[row], one_row.shape[1]
                # counted from the end of the prompt: merged prompts are padded anew
                ends = kept[0].shape[1] - 1 - ours[-count:], trace.kept[0].shape[1] - 1 - one_row[0]
                assert torch.equal(*ends), layer
            assert torch.equal(new[row], llava.generate(**alone, **GREEDY)[0, -4:])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("schedule", [BOTH, PRUNED], ids=Schedule.label)
def test_further_turns_go_on_row_by_row(llava, schedule, attention):
    llava.set_attn_implementation(attention)
    prompts = [prompt(1, 0), prompt(3, 1, before=7), prompt(2, 2)]
    options = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
    with patched(llava, schedule):
        both = batch(prompts)
        first = llava.generate(**both, **options)
        words = torch.tensor([text(3, 9)] * 3)
        ids = torch.cat([first.sequences, words], dim=1)
        mask = torch.cat([both["attention_mask"], torch.ones(3, 7, dtype=torch.long)], dim=1)
        cache = cache_of(first)
        second = llava.generate(input_ids=ids, attention_mask=mask, **with_cache(cache), **options)
        for row, one in enumerate(prompts):
            alone = llava.generate(**one, **options)
            ids = torch.cat([alone.sequences, words[:1]], dim=1)
            again = llava.generate(input_ids=ids, **with_cache(cache_of(alone)), **options)
            for ours, theirs in ((first, alone), (second, again)):
                for a, b in zip(ours.logits, theirs.logits, strict=True):
                    torch.testing.assert_close(a[row], b[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("beams", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_of_rows_that_differ(llava, beams):
    prompts = [prompt(1, 0), prompt(3, 1), prompt(0, 2, after=9)]
    copies = beams.get("num_return_sequences", 1)
    if not hasattr(llava, "_expand_multimodal_outputs"):
        pytest.skip("this version of transformers repeats videos, not prompts with their videos")
    with patched(llava, BOTH):
        together = llava.generate(**batch(prompts), **GREEDY, **beams)[:, -4:]
        for row, one in enumerate(prompts):
            alone = llava.generate(**one, **GREEDY, **beams)[:, -4:]
            assert torch.equal(together[row * copies : (row + 1) * copies], alone)


def test_images_of_different_sizes_in_a_batch(llava):
    prompts = [image_prompt(llava, size, seed) for seed, size in enumerate([(100, 140), (70, 150)])]
    with patched(llava, Schedule(Merge(retention=0.5), Prune(linear=(1, 4)))) as trace:
        together = llava(**batch(prompts)).logits[:, -1]
        rows = trace.rows
        for row, one in enumerate(prompts):
            logits = llava(**one).logits[0, -1]
            torch.testing.assert_close(together[row], logits, rtol=0, atol=1e-5)
            assert rows[row] == trace.tokens
    assert rows[0] != rows[1]


def image_prompt(llava, size, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "pixel_values": torch.randn(1, 5, 3, 75, 75, generator=generator),
        "image_sizes": torch.tensor([size]),
        "batch_num_images": torch.tensor([1]),
    }
    tokens = len(llava.model.get_image_features(**inputs).pooler_output[0])
    ids = torch.tensor([[*text(3, seed), *[IMAGE_TOKEN] * tokens, *text(4, seed)]])
    return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_masks_that_differ_for_a_bare_language_model():
    model = tiny_qwen2()
    embeds = torch.randn(2, 20, 64)
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[0, 3:15] = True
    mask[1, 8:12] = True
    schedule = Schedule(prune=Prune(ratios=(1, 0.5, 0.25)))
    with patched(model, schedule, visual_mask=mask) as trace:
        together = model(inputs_embeds=embeds).logits[:, -1]
        new = model.generate(inputs_embeds=embeds, **GREEDY)
        with pytest.raises(PatchError, match=r"2 that differ. Read trace\.rows"):
            trace.tokens  # noqa: B018
    for row in range(2):
        with patched(model, schedule, visual_mask=mask[row : row + 1]):
            alone = model(inputs_embeds=embeds[row : row + 1]).logits[0, -1]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)
            one = model.generate(inputs_embeds=embeds[row : row + 1], **GREEDY)
            assert torch.equal(new[row], one[0])


def test_selected_rows_begin_with_padding():
    visual = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0]], dtype=torch.bool)
    scores = torch.tensor([[9.0, 1, 4, 2, 3, 9], [9.0, 9, 9, 1, 9, 9]])
    index = select_rows(visual, torch.tensor([0, 1]), torch.tensor([1, 1]), 5, scores)
    assert index.tolist() == [[0, 0, 0, 2, 5], [1, 2, 3, 4, 5]]


def test_a_padded_mask_is_causal_and_leaves_no_row_empty():
    mask = padded_mask(torch.tensor([0, 2]), queries=2, keys=4)
    assert mask[0, 0].tolist() == [[True, True, True, False], [True] * 4]
    assert mask[1, 0].tolist() == [[False, False, True, False], [False, False, True, True]]
    whole = padded_mask(torch.tensor([2]), queries=4, keys=4)[0, 0]
    assert whole.any(dim=1).all()
    assert whole[1].tolist() == [False, True, False, False]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("drop_point", DROP_POINTS)
def test_the_last_layer_of_rows_that_differ(llava, attention, drop_point):
    llava.set_attn_implementation(attention)
    inputs = batch([prompt(1, 0), prompt(3, 1, before=7), prompt(0, 2, after=9)])
    schedule = Schedule(BOTH.merge, Prune(ratios=(1, 0.5, 0.5, 0.25), drop_point=drop_point))
    found = {}
    for last_layer in ("all", "needed"):
        with patched(llava, schedule, last_layer=last_layer) as trace:
            output = llava(**inputs, logits_to_keep=1)
            found[last_layer] = output, trace.rows, llava.generate(**inputs, **GREEDY)
    (output, rows, new), (same, needed, again) = found["all"], found["needed"]
    torch.testing.assert_close(same.logits, output.logits, rtol=0, atol=1e-5)
    for ours, theirs in zip(cache_of(same).layers, cache_of(output).layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=0, atol=1e-6)
    assert torch.equal(again, new)
    assert needed == [row.last_needed() for row in rows]
    assert [row.mlp_tokens[-1] for row in needed] == [1, 1, 1]
