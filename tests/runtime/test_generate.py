"""Decoding under a schedule: every step against the mask-based reference."""

import pytest
import torch
from transformers import GenerationConfig

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, patched
from aim_runtime.patching.drafts import TextCandidates
from aim_runtime.reference import Reference
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.reference import embedded_video
from tests.runtime.support import VIDEO_TOKEN, video_inputs

BOTH = Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4)))
KEPT = Schedule(Merge(passes=(5, 3), positions="kept"), BOTH.prune)
GREEDY = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture
def teacher(llava):
    """Logits [steps, V] of the reference that precede each of ``new`` tokens of a prompt."""
    reference = Reference(llava.model.language_model, llava.lm_head)

    def logits(inputs, trace, row, new):
        embeds, visual, _ = embedded_video(llava, inputs, trace.tokens.merge_tokens)
        kept = reference.kept(embeds[row], visual[row], trace.tokens)
        x = torch.cat([embeds[row], llava.get_input_embeddings()(new[:-1])])
        kept = [torch.cat([mask, mask.new_ones(len(new) - 1)]) for mask in kept]
        return reference.logits(x, kept)[-len(new) :]

    return logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sampling_sees_the_reference_logits_at_every_step(llava, teacher, attention):
    llava.set_attn_implementation(attention)
    inputs = video_inputs(batch=2)
    torch.manual_seed(3)
    with patched(llava, BOTH) as trace:
        output = llava.generate(
            **inputs,
            max_new_tokens=6,
            do_sample=True,
            return_dict_in_generate=True,
            output_logits=True,
        )
    prompt = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :prompt], inputs["input_ids"])
    new, seen = output.sequences[:, prompt:], torch.stack(output.logits, dim=1)
    assert not torch.equal(new, seen.argmax(-1)), "sampled nothing but the best"
    for row in range(2):
        expected = teacher(inputs, trace, row, new[row])
        torch.testing.assert_close(seen[row], expected, rtol=1e-3, atol=1e-3)


def test_several_sequences_of_each_prompt(llava):
    inputs = video_inputs(batch=2)
    with patched(llava, BOTH) as trace:
        output = llava.generate(**inputs, max_new_tokens=3, do_sample=True, num_return_sequences=3)
    prompt = inputs["input_ids"].shape[1]
    assert output.shape == (6, prompt + 3)
    assert torch.equal(output[:, :prompt], inputs["input_ids"].repeat_interleave(3, dim=0))
    assert trace.tokens.batch == 6


def test_sequences_of_prompts_with_videos_at_different_places(llava):
    first, second = video_inputs(before=3, after=7), video_inputs(before=6, after=4, seed=5)
    both = {name: torch.cat([first[name], second[name]]) for name in first}
    options = {"max_new_tokens": 3, "do_sample": True, "num_return_sequences": 2, "top_k": 1}
    with patched(llava, BOTH):
        together = llava.generate(**both, **options)
        alone = [llava.generate(**inputs, **options) for inputs in (first, second)]
    assert torch.equal(together, torch.cat(alone))


def test_sequences_of_embedded_prompts_with_their_own_masks(llava):
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[0, 3:15] = mask[1, 6:18] = True
    embeds, schedule = torch.randn(2, 20, 64), Schedule(prune=Prune(linear=(1, 4)))
    options = {"max_new_tokens": 3, "do_sample": True, "num_return_sequences": 2, "top_k": 1}
    with patched(llava, schedule, visual_mask=mask):
        together = llava.generate(inputs_embeds=embeds, **options)
    for row in range(2):
        with patched(llava, schedule, visual_mask=mask[row : row + 1]):
            alone = llava.generate(inputs_embeds=embeds[row : row + 1], **options)
        assert torch.equal(together[2 * row : 2 * row + 2], alone)


def test_beam_search_scores_are_those_of_the_reference(llava, teacher):
    inputs = video_inputs()
    with patched(llava, BOTH) as trace:
        output = llava.generate(
            **inputs,
            max_new_tokens=4,
            num_beams=3,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    new = output.sequences[0, inputs["input_ids"].shape[1] :]
    log_probabilities = teacher(inputs, trace, 0, new).log_softmax(-1)
    score = log_probabilities.gather(1, new[:, None]).mean()
    torch.testing.assert_close(output.sequences_scores[0], score, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_loop_by_hand_equals_generate(llava, attention):
    llava.set_attn_implementation(attention)
    inputs = video_inputs(batch=2)
    with patched(llava, BOTH) as trace:
        generated = llava.generate(**inputs, max_new_tokens=5, do_sample=False)
        output, mask, tokens = llava(**inputs), inputs["attention_mask"], []
        for _ in range(5):
            tokens.append(output.logits[:, -1:].argmax(-1))
            mask = torch.cat([mask, mask[:, :1]], dim=1)  # of the caller's full prompt
            output = llava(
                input_ids=tokens[-1], attention_mask=mask, **with_cache(cache_of(output))
            )
        lengths = [cache_of(output).get_seq_length(layer) for layer in range(6)]
    assert torch.equal(torch.cat(tokens, dim=1), generated[:, -5:])
    assert lengths == [tokens + 5 for tokens in trace.cache_tokens]


def test_the_trace_is_of_the_prefill_not_of_the_steps(llava):
    with patched(llava, BOTH) as trace:
        llava.generate(**video_inputs(), max_new_tokens=5)
    assert trace.tokens.prompt_tokens == 25
    assert trace.cache_tokens == trace.tokens.attention_tokens


def test_positional_ids_and_keywords_are_the_same(llava):
    inputs = video_inputs()
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    with patched(llava, BOTH):
        one = llava.generate(inputs["input_ids"], **rest, max_new_tokens=3, do_sample=False)
        other = llava.generate(**inputs, max_new_tokens=3, do_sample=False)
        named = llava.generate(
            inputs=inputs["input_ids"], **rest, max_new_tokens=3, do_sample=False
        )
    assert torch.equal(one, other)
    assert torch.equal(named, other)


def test_embeddings_generate_new_tokens_only(llava):
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, 3:15] = True
    with patched(llava, Schedule(prune=Prune(linear=(1, 4))), visual_mask=mask):
        new = llava.generate(inputs_embeds=torch.randn(1, 20, 64), max_new_tokens=3)
    assert new.shape == (1, 3)


LOOKUP = {"prompt_lookup_num_tokens": 2, "max_new_tokens": 12, "do_sample": False}
REFUSED = [
    {"use_cache": False, "max_new_tokens": 2},
    {"assistant_early_exit": 2, "max_new_tokens": 6},
    {"prefill_chunk_size": 8, "max_new_tokens": 2},
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: next(iter(options)))
def test_refuses_wherever_it_is_given(llava, options):
    inputs, match = video_inputs(), next(iter(options))
    ids, config = inputs.pop("input_ids"), GenerationConfig(**options)
    with patched(llava, BOTH):
        with pytest.raises(PatchError, match=match):
            llava.generate(ids, **inputs, **options)
        with pytest.raises(PatchError, match=match):
            llava.generate(ids, **inputs, generation_config=config)
        with pytest.raises(PatchError, match=match):
            llava.generate(ids, config, **inputs)
        llava.generation_config = config
        with pytest.raises(PatchError, match=match):
            llava.generate(ids, **inputs)
        with pytest.raises(PatchError, match=match):
            llava.generate(ids, GenerationConfig(max_new_tokens=2), **inputs)


def test_the_caller_s_argument_counts_more_than_the_checkpoint_s(llava):
    inputs = video_inputs()
    llava.generation_config.prefill_chunk_size = 8
    with patched(llava, BOTH):
        expected = llava.generate(**inputs, **GREEDY, prefill_chunk_size=None)
    llava.generation_config.prefill_chunk_size = None
    with patched(llava, BOTH):
        assert torch.equal(llava.generate(**inputs, **GREEDY), expected)


def test_merging_alone_needs_no_cache(llava):
    inputs = video_inputs()
    for merge in (BOTH.merge, KEPT.merge):
        with patched(llava, Schedule(merge)):
            expected = llava.generate(**inputs, **GREEDY)
            assert torch.equal(llava.generate(**inputs, **GREEDY, use_cache=False), expected)


def test_prompt_lookup_with_a_mask(llava, qwen2):
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, 3:15] = True
    ids = torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(2))
    ids[0, 16:18] = ids[0, -2:]
    schedule, options = Schedule(prune=BOTH.prune), LOOKUP | {"prompt_lookup_num_tokens": None}
    with patched(qwen2, schedule, visual_mask=mask):
        expected = qwen2.generate(ids, **options)
        assert torch.equal(qwen2.generate(ids, **LOOKUP), expected)
    with patched(llava, schedule, visual_mask=mask), pytest.raises(PatchError, match="visual_mask"):
        llava.generate(ids, **LOOKUP)


@pytest.mark.parametrize("schedule", [BOTH, Schedule()], ids=Schedule.label)
def test_continuous_batching_is_refused(llava, schedule):
    inputs = video_inputs()
    for call in (
        lambda: llava.generate(**inputs, **GREEDY, cache_implementation="paged"),
        lambda: llava.generate_batch(inputs["input_ids"].tolist()),
        lambda: llava.init_continuous_batching(),
    ):
        with patched(llava, schedule), pytest.raises(PatchError, match="dynamic or offl"):
            call()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("schedule", [BOTH, KEPT], ids=Schedule.label)
def test_prompt_lookup_finds_the_same_tokens(llava, schedule, seed, monkeypatch):
    inputs = video_inputs(before=6, after=6, seed=seed)
    # the end stands in the prompt twice: candidates at once, words or placeholders
    start = (1, 4)[seed % 2]
    inputs["input_ids"][0, start : start + 2] = inputs["input_ids"][0, -2:]
    accepted = []
    stock = TextCandidates.get_candidates

    def seen(self, input_ids, **kwargs):
        candidates, logits = stock(self, input_ids, **kwargs)
        assert not bool((candidates[:, input_ids.shape[1] :] == VIDEO_TOKEN).any())
        accepted.append(candidates.shape[1] - input_ids.shape[1])
        return candidates, logits

    monkeypatch.setattr(TextCandidates, "get_candidates", seen)
    options = {"max_new_tokens": 40, "do_sample": False}
    with patched(llava, schedule) as trace:
        expected = llava.generate(**inputs, **options)
        tokens, kept = trace.tokens, trace.kept
        found = llava.generate(**inputs, **options, prompt_lookup_num_tokens=3)
        assert trace.tokens == tokens
        assert all(torch.equal(a, b) for a, b in zip(trace.kept, kept, strict=True))
    assert torch.equal(found, expected)
    assert any(accepted)
