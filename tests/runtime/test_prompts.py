"""Every prompt that LLaVA-OneVision takes: padded batches, several videos, images, text alone."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aim_cost import Schedule
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.merge import MERGE_KINDS, POSITIONS, Merge
from aim_cost.schedules.prune import DROP_POINTS, Prune
from aim_runtime import patched
from aim_runtime.reference import Reference
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.reference import embedded_video
from tests.runtime.slow_scores import ANYWHERE
from tests.runtime.support import (
    FRAME_TOKENS,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    left_padded,
    tiny_llava,
    video_inputs,
)

PRUNE = Prune(linear=(1, 4))
BOTH = Schedule(Merge(passes=(5, 3)), PRUNE)
GREEDY = {"max_new_tokens": 3, "do_sample": False}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    merge=st.none()
    | st.builds(
        Merge,
        passes=st.sampled_from([(5,), (5, 3)]),
        by=st.sampled_from(MERGE_KINDS),
        positions=st.sampled_from(POSITIONS),
    ),
    ranking=st.sampled_from(ANYWHERE),
    befores=st.lists(st.integers(0, 9), min_size=2, max_size=3),
    attention=st.sampled_from(["sdpa", "eager"]),
)
def test_padded_prompts_run_as_they_would_alone(merge, ranking, befores, attention):
    llava = tiny_llava(layers=5)
    llava.set_attn_implementation(attention)
    prune = Prune(ratios=(1, 0.5, 0.5, 0.25, 0.125), **ranking)
    prompts = [video_inputs(3, before, 4, seed=i) for i, before in enumerate(befores)]
    batch = left_padded(prompts)
    with patched(llava, Schedule(merge, prune)) as trace:
        together = llava(**batch).logits[:, -4:]
        padding = (batch["attention_mask"] == 0).sum(dim=1).tolist()
        kept, tokens = trace.kept, trace.tokens
        new = llava.generate(**batch, **GREEDY)[:, -3:]
        for row, prompt in enumerate(prompts):
            alone = llava(**prompt).logits[0, -4:]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)
            assert torch.equal(new[row], llava.generate(**prompt, **GREEDY)[0, -3:])
            for all_rows, one_row in zip(kept, trace.kept, strict=True):
                real = all_rows[row, padding[row] :] - padding[row]
                assert torch.equal(all_rows[row, : padding[row]], torch.arange(padding[row]))
                assert torch.equal(real, one_row[0])
    visual = VisualInput(3, FRAME_TOKENS, 1)
    text = max(befores) + 4  # padding counts as text
    assert tokens == Schedule(merge, prune).resolve_visual(
        visual, text_tokens=text, layers=5, batch=len(prompts)
    )


def test_padding_with_a_bare_language_model(qwen2):
    embeds = torch.randn(2, 20, 64)
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[:, 8:16] = True
    attention_mask = torch.ones(2, 20, dtype=torch.long)
    attention_mask[1, :6] = 0
    schedule = Schedule(prune=PRUNE)
    with patched(qwen2, schedule, visual_mask=mask):
        together = qwen2(inputs_embeds=embeds, attention_mask=attention_mask).logits
    for row, start in ((0, 0), (1, 6)):
        with patched(qwen2, schedule, visual_mask=mask[row : row + 1, start:]):
            alone = qwen2(inputs_embeds=embeds[row : row + 1, start:]).logits[0]
        torch.testing.assert_close(together[row, start:], alone, rtol=0, atol=1e-5)


def several_videos(batch=2):
    """Two videos of three frames in each prompt, with and without text between them."""
    video = [VIDEO_TOKEN] * (3 * FRAME_TOKENS + 1)
    rows = [[3, *video, 4, 5, *video, 6, 7], [8, 9, *video, *video, 1, 2, 3]][:batch]
    pixels = torch.randn(2 * batch, 3, 3, 75, 75, generator=torch.Generator().manual_seed(2))
    return {"input_ids": torch.tensor(rows), "pixel_values_videos": pixels}


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("expand", [{}, {"num_return_sequences": 2, "do_sample": True, "top_k": 1}])
def test_several_videos_in_a_prompt(llava, positions, expand):
    if expand and "mm_encoder_outputs" not in inspect.signature(llava.forward).parameters:
        pytest.skip("this version of transformers repeats videos, not prompts with their videos")
    schedule = Schedule(Merge(passes=(5, 3), positions=positions), PRUNE)
    inputs = several_videos()
    with patched(llava, schedule) as trace:
        logits = llava(**inputs).logits
        tokens, kept_here = trace.tokens, trace.kept
        new = llava.generate(**inputs, **GREEDY | expand)[:, -3:]
    assert tokens == schedule.resolve_visual(
        VisualInput(6, FRAME_TOKENS, 2), text_tokens=5, layers=6, batch=2
    )
    rows = embedded_video(llava, inputs, (9, 5, 3))
    for row in range(2):
        reference = Reference(llava.model.language_model, llava.lm_head)
        embeds, visual, places = (part[row] for part in rows)
        where = places if positions == "kept" else None
        kept = reference.kept(embeds, visual, tokens, positions=where)
        assert reference.smallest_margin > 1e-3
        assert [k[row].tolist() for k in kept_here] == [k.nonzero()[:, 0].tolist() for k in kept]
        expected = reference.logits(embeds, kept, positions=where)[kept[-1]]
        torch.testing.assert_close(logits[row], expected, rtol=1e-3, atol=1e-3)
        copies = len(new) // 2
        for sequence in new[row * copies : (row + 1) * copies]:
            assert sequence.tolist() == reference.generate(embeds, kept, 3, positions=where)


def image_inputs(llava, sizes, alone):
    """A prompt of images: ``alone`` in its prompt, an image is cut into crops."""
    generator = torch.Generator().manual_seed(5)
    crops = 5 if alone else 1
    pixels = torch.randn(len(sizes), crops, 3, 75, 75, generator=generator)
    image_sizes, number = torch.tensor(sizes), torch.tensor([len(sizes)])
    call = {"image_sizes": image_sizes, "batch_num_images": number}
    features = llava.model.get_image_features(
        pixels, **call, vision_feature_layer=-1, vision_feature_select_strategy="full"
    ).pooler_output
    ids = [3, 4]
    for image in features:
        ids += [IMAGE_TOKEN] * len(image) + [5]
    inputs = {"input_ids": torch.tensor([[*ids, 6]]), "pixel_values": pixels, **call}
    return inputs, torch.cat(list(features))


@pytest.mark.parametrize(
    ("sizes", "alone", "sizes_of_groups"),
    [([(100, 140)], True, ((1, 25), (4, 20))), ([(70, 80), (150, 150)], False, ((2, 25),))],
)
@pytest.mark.parametrize("drop_point", DROP_POINTS)
def test_images_are_pruned(llava, sizes, alone, sizes_of_groups, drop_point):
    inputs, features = image_inputs(llava, sizes, alone)
    schedule = Schedule(prune=Prune(linear=(1, 4), drop_point=drop_point))
    with patched(llava, Schedule()):
        same = llava(**inputs).logits
    assert torch.equal(same, llava(**inputs).logits)
    with patched(llava, schedule) as trace:
        logits = llava(**inputs).logits[0]
        left = trace.kept
        new = llava.generate(**inputs, **GREEDY)[0, -3:]
    visual = inputs["input_ids"][0] == IMAGE_TOKEN
    newlines = len(features) - sum(groups * tokens for groups, tokens in sizes_of_groups)
    (groups, tokens), *others = sizes_of_groups
    assert trace.tokens == schedule.resolve_visual(
        VisualInput(groups, tokens, newlines, tuple(others)),
        text_tokens=int((~visual).sum()),
        layers=6,
    )
    embeds = llava.get_input_embeddings()(inputs["input_ids"][0])
    embeds[visual] = features
    reference = Reference(llava.model.language_model, llava.lm_head)
    kept = reference.kept(embeds, visual, trace.tokens)
    assert reference.smallest_margin > 1e-3
    assert [k[0].tolist() for k in left] == [k.nonzero()[:, 0].tolist() for k in kept]
    expected = reference.logits(embeds, kept)[kept[-1]]
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    assert new.tolist() == reference.generate(embeds, kept, 3)


def test_images_beside_a_video_are_pruned_together(llava):
    images, _ = image_inputs(llava, [(70, 80), (150, 150)], alone=False)
    video = video_inputs()
    ids = torch.cat([images["input_ids"], video["input_ids"]], dim=1)
    inputs = images | {"input_ids": ids, "pixel_values_videos": video["pixel_values_videos"]}
    with patched(llava, Schedule()):
        same = llava(**inputs).logits
    assert torch.equal(same, llava(**inputs).logits)
    with patched(llava, Schedule(prune=PRUNE)) as trace:
        llava.generate(**inputs, **GREEDY)
    visual = int(((ids == IMAGE_TOKEN) | (ids == VIDEO_TOKEN)).sum())
    assert trace.tokens == Schedule(prune=PRUNE).resolve_visual(
        VisualInput(2, 25, 3, ((4, FRAME_TOKENS),)), text_tokens=ids.shape[1] - visual, layers=6
    )


def test_a_second_turn_after_an_image(llava):
    inputs, _ = image_inputs(llava, [(100, 140)], alone=True)
    with patched(llava, Schedule(prune=PRUNE)):
        first = llava.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        ids = torch.cat([first.sequences, torch.tensor([[7, 8]])], dim=1)
        output = llava.generate(
            **inputs | {"input_ids": ids}, **with_cache(cache_of(first)), **GREEDY
        )
    assert torch.equal(output[:, :-3], ids)


@pytest.mark.parametrize("schedule", [BOTH, Schedule(prune=PRUNE)], ids=Schedule.label)
def test_text_alone_is_left_as_it_is(llava, schedule):
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.ones_like(ids)
    attention_mask[1, :3] = 0
    text = {"input_ids": ids, "attention_mask": attention_mask}
    expected, generated = llava(**text).logits, llava.generate(**text, **GREEDY)
    with patched(llava, schedule) as trace:
        llava(**video_inputs())
        assert torch.equal(llava(**text).logits, expected)
        assert not trace.tokens.reduces
        assert trace.tokens.attention_tokens == trace.cache_tokens == (9,) * 6
        assert trace.tokens.visual_tokens == 0
        assert torch.equal(llava.generate(**text, **GREEDY), generated)
