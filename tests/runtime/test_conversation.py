"""Further turns behind the cache of a prompt, and positions that go on after it."""

import inspect

import pytest
import torch

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, patched
from aim_runtime.reference import Reference
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.reference import embedded_video
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN, left_padded, video_inputs

PRUNE = Prune(linear=(1, 4))
KEPT = Schedule(Merge(passes=(5, 3), positions="kept"), PRUNE)
RECOUNTED = Schedule(Merge(passes=(5, 3)), PRUNE)
SCHEDULES = [KEPT, RECOUNTED, Schedule(prune=PRUNE)]
GREEDY = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def expected_logits(llava, inputs, tokens, row, new, schedule):
    """Of the reference: logits [new, V] that precede each of ``new`` tokens behind a prompt."""
    embeds, visual, positions = (
        part[row] for part in embedded_video(llava, inputs, tokens.merge_tokens)
    )
    after = len(new) - 1
    moves = schedule.merge is not None and schedule.merge.positions == "kept"
    positions = positions if moves else torch.arange(len(embeds))
    reference = Reference(llava.model.language_model, llava.lm_head)
    kept = reference.kept(embeds, visual, tokens, positions=positions)
    embeds = torch.cat([embeds, llava.get_input_embeddings()(new[:-1])])
    kept = [torch.cat([mask, mask.new_ones(after)]) for mask in kept]
    positions = torch.cat([positions, positions[-1] + 1 + torch.arange(after)])
    return reference.logits(embeds, kept, positions=positions)[-len(new) :]


def follow_up(first, batch):
    """The conversation so far and four more words, as a chat template would write it."""
    words = torch.randint(0, 200, (batch, 4), generator=torch.Generator().manual_seed(4))
    ids = torch.cat([first.sequences, words], dim=1)
    return ids, torch.ones_like(ids)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
@pytest.mark.parametrize("with_pixels", [True, False])
def test_a_second_turn_sees_what_the_first_kept(llava, schedule, attention, with_pixels):
    llava.set_attn_implementation(attention)
    inputs = video_inputs(batch=2)
    prompt = inputs["input_ids"].shape[1]
    pixels = {"pixel_values_videos": inputs["pixel_values_videos"]} if with_pixels else {}
    with patched(llava, schedule) as trace:
        first = llava.generate(**inputs, **GREEDY, max_new_tokens=3)
        tokens = trace.tokens
        ids, mask = follow_up(first, 2)
        cache = with_cache(cache_of(first))
        second = llava.generate(
            input_ids=ids, attention_mask=mask, **pixels, **cache, **GREEDY, max_new_tokens=4
        )
        assert trace.tokens == tokens
    assert torch.equal(second.sequences[:, :-4], ids)
    seen = torch.stack([*first.logits, *second.logits], dim=1)
    for row in range(2):
        new = second.sequences[row, prompt:]
        expected = expected_logits(llava, inputs, tokens, row, new, schedule)
        torch.testing.assert_close(seen[row, :3], expected[:3], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(seen[row, 3:], expected[-4:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
def test_padded_prompts_go_on_as_they_would_alone(llava, schedule):
    short, long = video_inputs(before=2), video_inputs(before=6, seed=3)
    both = left_padded([short, long])
    with patched(llava, schedule):
        first = llava.generate(**both, **GREEDY, max_new_tokens=3)
        ids, _ = follow_up(first, 2)
        mask = torch.cat([both["attention_mask"], torch.ones(2, 7, dtype=torch.long)], dim=1)
        cache = cache_of(first)
        second = llava.generate(
            input_ids=ids, attention_mask=mask, **with_cache(cache), **GREEDY, max_new_tokens=3
        )
        for row, inputs in enumerate((short, long)):
            alone = llava.generate(**inputs, **GREEDY, max_new_tokens=3)
            ids = torch.cat([alone.sequences, second.sequences[row : row + 1, -7:-3]], dim=1)
            again = llava.generate(
                input_ids=ids, **with_cache(cache_of(alone)), **GREEDY, max_new_tokens=3
            )
            for one, other in ((first, alone), (second, again)):
                for ours, theirs in zip(one.logits, other.logits, strict=True):
                    torch.testing.assert_close(ours[row], theirs[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_kept_positions_without_a_cache(llava, attention):
    llava.set_attn_implementation(attention)
    inputs = video_inputs(batch=2)
    with patched(llava, KEPT):
        expected = llava(**inputs).logits
        del inputs["attention_mask"]
        assert torch.equal(llava(**inputs, use_cache=False).logits, expected)


def test_a_loop_by_hand_over_padded_prompts(llava):
    inputs = left_padded([video_inputs(before=2), video_inputs(before=6, seed=3)])
    with patched(llava, KEPT):
        generated = llava.generate(**inputs, **GREEDY, max_new_tokens=3)
        output, mask = llava(**inputs), inputs["attention_mask"]
        for logits in generated.logits:
            torch.testing.assert_close(output.logits[:, -1], logits, rtol=0, atol=1e-5)
            mask = torch.cat([mask, mask[:, -1:]], dim=1)
            output = llava(
                input_ids=logits.argmax(-1, keepdim=True),
                attention_mask=mask,
                **with_cache(cache_of(output)),
            )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_loop_by_hand_goes_on_after_the_unmerged_prompt(llava, attention):
    llava.set_attn_implementation(attention)
    inputs = video_inputs(batch=2)
    with patched(llava, KEPT):
        generated = llava.generate(**inputs, max_new_tokens=5, do_sample=False)
        output, tokens = llava(**inputs), []
        for _ in range(5):
            tokens.append(output.logits[:, -1:].argmax(-1))
            output = llava(input_ids=tokens[-1], **with_cache(cache_of(output)))
        recounted = Schedule(Merge(passes=(5, 3)), PRUNE)
    assert torch.equal(torch.cat(tokens, dim=1), generated[:, -5:])
    with patched(llava, recounted):
        other = llava.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert not torch.equal(other, generated)


@pytest.mark.parametrize(
    "beams", [{"num_beams": 3}, {"num_return_sequences": 3, "do_sample": True}]
)
def test_kept_positions_of_several_sequences(llava, beams):
    inputs = video_inputs(batch=2)
    options = GREEDY | {"output_scores": True} | beams
    with patched(llava, KEPT) as trace:
        output = llava.generate(**inputs, **options, max_new_tokens=4)
    copies = 1 if "num_beams" in beams else 3
    prompt = inputs["input_ids"].shape[1]
    for row, sequence in enumerate(output.sequences):
        new = sequence[prompt:]
        expected = expected_logits(llava, inputs, trace.tokens, row // copies, new, KEPT)
        if copies == 3:
            seen = torch.stack(output.logits, dim=1)[row]
            torch.testing.assert_close(seen, expected, rtol=1e-3, atol=1e-3)
        else:
            score = expected.log_softmax(-1).gather(1, new[:, None]).mean()
            torch.testing.assert_close(output.sequences_scores[row], score, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", [KEPT, RECOUNTED], ids=Schedule.label)
def test_positions_are_those_of_the_features_given(llava, schedule):
    inputs, others = video_inputs(), video_inputs(seed=9)
    if "mm_encoder_outputs" not in inspect.signature(llava.forward).parameters:
        pytest.skip("this version of transformers takes no ready features")
    pixels = inputs.pop("pixel_values_videos")
    whole = llava.model.get_video_features(pixels).pooler_output
    with patched(llava, schedule):
        expected = llava(**inputs, pixel_values_videos=pixels).logits
        features = llava.model.get_video_features(pixels)
        assert torch.equal(features.pooler_output, whole), "a caller sees what no patch shows"
        llava.model.get_video_features(others["pixel_values_videos"])
        for _ in range(2):
            ready = {"video": features}
            assert torch.equal(llava(**inputs, mm_encoder_outputs=ready).logits, expected)
        fewer = llava.model.get_video_features(pixels[:, :3])
        with pytest.raises(PatchError, match="28 video placeholders"):
            llava(**inputs, mm_encoder_outputs={"video": fewer})


def default_positions(inputs):
    return (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
def test_positions_of_the_caller_s_prompt(llava, schedule):
    inputs = left_padded([video_inputs(before=2), video_inputs(before=6, seed=3)])
    positions = default_positions(inputs)
    with patched(llava, schedule):
        expected = llava(**inputs)
        logits = expected.logits[:, -1]
        given = llava(**inputs, position_ids=positions)
        torch.testing.assert_close(given.logits[:, -1], logits, rtol=0, atol=1e-4)
        generated = llava.generate(**inputs, position_ids=positions, **GREEDY, max_new_tokens=3)
        torch.testing.assert_close(generated.logits[0], logits, rtol=0, atol=1e-4)
        word = logits.argmax(-1, keepdim=True)
        mask = torch.cat([inputs["attention_mask"], word * 0 + 1], dim=1)
        after = {"attention_mask": mask, "position_ids": positions[:, -1:] + 1}
        step = llava(input_ids=word, **after, **with_cache(cache_of(given)))
        torch.testing.assert_close(step.logits[:, -1], generated.logits[1], rtol=0, atol=1e-4)


def test_kept_positions_may_be_the_caller_s_own(llava):
    """Only differences matter to the rotary embedding: a gap in the text does."""
    inputs = video_inputs()
    positions = torch.arange(49)[None]
    with patched(llava, KEPT):
        expected = llava(**inputs).logits
        shifted = llava(**inputs, position_ids=positions + 7).logits
        torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-4)
        gap = llava(**inputs, position_ids=positions + 9 * (positions > 45)).logits
    assert (gap[:, -1] - expected[:, -1]).abs().max() > 1e-2


def test_refuses_positions_that_mean_nothing_after_merging(llava):
    inputs = video_inputs()
    positions = torch.arange(49)[None]
    with patched(llava, RECOUNTED):
        for wrong in (positions * 2, positions[:, :25], positions + 9 * (positions > 45)):
            for call in (llava, llava.generate):
                with pytest.raises(PatchError, match="position_ids"):
                    call(**inputs, position_ids=wrong)
    for schedule in (RECOUNTED, KEPT):
        with patched(llava, schedule):
            output = llava(**inputs)
            word = output.logits[:, -1:].argmax(-1)
            with pytest.raises(PatchError, match="position_ids"):
                llava(input_ids=word, position_ids=word * 0 + 3, **with_cache(cache_of(output)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
def test_refuses_a_mask_that_hides_what_is_cached(llava, schedule):
    inputs = video_inputs()
    with patched(llava, schedule):
        output = llava(**inputs)
        word = output.logits[:, -1:].argmax(-1)
        hole = torch.ones(1, 50)
        hole[:, 20] = 0
        for mask in (hole, torch.zeros(1, 50), torch.ones(1, 1, 1, 50, dtype=torch.bool)):
            with pytest.raises(PatchError, match="attention_mask"):
                llava(input_ids=word, attention_mask=mask, **with_cache(cache_of(output)))


def test_a_prompt_that_is_short_already_is_refused(llava):
    inputs = video_inputs()
    short = inputs["input_ids"][:, [*range(5 + 13), *range(42, 49)]]
    given = {"input_ids": short, "pixel_values_videos": inputs["pixel_values_videos"]}
    with patched(llava, KEPT), pytest.raises(PatchError, match="37 video placeholders"):
        llava(**given)


def test_refuses_new_visual_tokens_behind_a_cache(llava):
    inputs = video_inputs()
    ids = inputs["input_ids"]
    with patched(llava, RECOUNTED):
        cache = cache_of(llava(**inputs))
        for new in ([VIDEO_TOKEN] * 37 + [3], [IMAGE_TOKEN, 3]):
            more = torch.cat([ids, torch.tensor([new])], dim=1)
            with pytest.raises(PatchError, match="got images or videos"):
                llava.generate(more, **with_cache(cache), max_new_tokens=2)
            with pytest.raises(PatchError, match="got images or videos"):
                llava(input_ids=torch.tensor([new]), **with_cache(cache))
        with pytest.raises(PatchError, match="whole conversation"):
            llava.generate(**inputs, **with_cache(cache), max_new_tokens=2)
        words = torch.tensor([[1, 2, 3]])
        with pytest.raises(PatchError, match=r"49 tokens that are cached.*whole conversation"):
            llava.generate(words, **with_cache(cache), max_new_tokens=2)
