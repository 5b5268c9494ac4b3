"""LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video: what stays as it was, generation, and further turns."""

import inspect

import pytest
import torch
from transformers import PreTrainedModel

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.agree import GREEDY, assert_kept, expected
from tests.runtime.models import BUILDERS, NAMES, named_inputs

PRUNE = Prune(linear=(1, 4))
KEPT = Schedule(Merge(retention=0.4, positions="kept"), PRUNE)
PRUNED = Schedule(prune=PRUNE)
RECOUNTED = Schedule(Merge(retention=0.4), PRUNE)
OPTIONS = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
# one visual item in each prompt, then several, then other numbers of them
BATCHES = [
    ("llava-1.5", "padding"),
    ("llava-1.5", "several images"),
    ("llava-1.5", "other numbers"),
    ("next", "padding"),
    ("next", "several images"),
    ("next", "other prompts"),
    ("next-video", "padding"),
    ("next-video", "an image"),
    ("next-video", "several videos"),
    ("next-video", "images and a video"),
    ("next-video", "other prompts"),
]
ALONE = [*((family, "padding") for family in BUILDERS), ("next-video", "an image")]


def require_repeats(model: PreTrainedModel, family: str, name: str) -> None:
    ready = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
    if not ready and (family, name) not in ALONE:
        pytest.skip("this transformers repeats images and videos, not prompts with theirs")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "name"), NAMES)
def test_the_empty_schedule_changes_no_bit(family, name, attention):
    model = BUILDERS[family](layers=4)
    model.set_attn_implementation(attention)
    inputs = named_inputs(model, family, name)
    logits, new = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    with patched(model, Schedule()):
        assert torch.equal(model(**inputs).logits, logits)
        assert torch.equal(model.generate(**inputs, **GREEDY), new)
    with patched(model, KEPT):
        assert not torch.equal(model(**inputs).logits[:, -1], logits[:, -1])
    assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(model.generate(**inputs, **GREEDY), new)


@pytest.mark.parametrize("family", BUILDERS)
def test_text_alone_is_left_as_it_is(family):
    model = BUILDERS[family]()
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.ones_like(ids)
    attention_mask[1, :3] = 0
    text = {"input_ids": ids, "attention_mask": attention_mask}
    logits, new = model(**text).logits, model.generate(**text, **GREEDY)
    with patched(model, KEPT) as trace:
        assert torch.equal(model(**text).logits, logits)
        assert torch.equal(model.generate(**text, **GREEDY), new)
    assert not trace.tokens.reduces
    assert trace.tokens.visual_tokens == 0


@pytest.mark.parametrize(("schedule", "attention"), [(KEPT, "sdpa"), (PRUNED, "eager")])
@pytest.mark.parametrize(("family", "name"), BATCHES)
def test_sampled_sequences_see_the_reference(family, name, attention, schedule):
    model = BUILDERS[family]()
    require_repeats(model, family, name)
    model.set_attn_implementation(attention)
    inputs = named_inputs(model, family, name)
    torch.manual_seed(3)
    with patched(model, schedule) as trace:
        sampling = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 4}
        output = model.generate(**inputs, **sampling, **OPTIONS)
    own = inputs["input_ids"].repeat_interleave(2, dim=0)
    assert torch.equal(output.sequences[:, :-4], own)
    new, seen = output.sequences[:, -4:], torch.stack(output.logits, dim=1)
    assert not torch.equal(new, seen.argmax(-1)), "sampled nothing but the best"
    for number, row in enumerate(expected(model, inputs, schedule)):
        for copy in (2 * number, 2 * number + 1):
            assert_kept(trace, copy, row)
            wanted = row.logits(new[copy])
            torch.testing.assert_close(seen[copy], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("family", "name"), BATCHES)
def test_beams_score_as_the_reference(family, name):
    model = BUILDERS[family]()
    require_repeats(model, family, name)
    inputs = named_inputs(model, family, name)
    with patched(model, KEPT):
        output = model.generate(**inputs, **GREEDY, num_beams=3, **OPTIONS)
    for number, row in enumerate(expected(model, inputs, KEPT)):
        new = output.sequences[number, -3:]
        score = row.logits(new).log_softmax(-1).gather(1, new[:, None]).mean()
        torch.testing.assert_close(output.sequences_scores[number], score, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("schedule", "with_pixels"), [(KEPT, True), (RECOUNTED, False), (PRUNED, True)]
)
@pytest.mark.parametrize(("family", "name"), BATCHES)
def test_a_second_turn_sees_what_the_first_kept(family, name, with_pixels, schedule):
    model = BUILDERS[family]()
    inputs = named_inputs(model, family, name)
    texts = ("input_ids", "attention_mask")
    pixels = {k: v for k, v in inputs.items() if k not in texts} if with_pixels else {}
    with patched(model, schedule):
        first = model.generate(**inputs, **GREEDY, **OPTIONS)
        words = torch.randint(0, 200, (len(first.sequences), 4))
        ids = torch.cat([first.sequences, words], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(len(ids), 7).long()], dim=1)
        turn = {"input_ids": ids, "attention_mask": mask} | pixels
        second = model.generate(**turn, **with_cache(cache_of(first)), **GREEDY, **OPTIONS)
    assert torch.equal(second.sequences[:, :-3], ids)
    prompt = inputs["input_ids"].shape[1]
    seen = torch.stack([*first.logits, *second.logits], dim=1)
    for number, row in enumerate(expected(model, inputs, schedule)):
        wanted = row.logits(second.sequences[number, prompt:])
        torch.testing.assert_close(seen[number, :3], wanted[:3], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(seen[number, 3:], wanted[-3:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", BUILDERS)
def test_a_loop_by_hand_equals_generate(family):
    model = BUILDERS[family]()
    inputs = named_inputs(model, family, "padding")
    with patched(model, KEPT):
        generated = model.generate(**inputs, **GREEDY)
        output, mask, tokens = model(**inputs), inputs["attention_mask"], []
        for _ in range(3):
            tokens.append(output.logits[:, -1:].argmax(-1))
            mask = torch.cat([mask, mask[:, -1:]], dim=1)
            output = model(
                input_ids=tokens[-1], attention_mask=mask, **with_cache(cache_of(output))
            )
    assert torch.equal(torch.cat(tokens, dim=1), generated[:, -3:])
