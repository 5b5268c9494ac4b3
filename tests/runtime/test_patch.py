"""Patching changes what it must and leaves nothing behind."""

import contextlib
import gc
import weakref

import pytest
import torch

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, patch, patched, unpatch
from tests.runtime.support import (
    mask_of,
    state,
    tiny_qwen2,
    video_inputs,
)

PRUNE = Schedule(prune=Prune(linear=(1, 4)))
BOTH = Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_empty_schedule_changes_no_bit(llava, qwen2, attention):
    llava.set_attn_implementation(attention)
    qwen2.set_attn_implementation(attention)
    inputs, embeds = video_inputs(batch=2), torch.randn(1, 20, 64)
    expected = llava(**inputs).logits, qwen2(inputs_embeds=embeds).logits
    generated = llava.generate(**inputs, max_new_tokens=4, do_sample=False)
    with patched(llava, Schedule()) as trace:
        assert torch.equal(llava(**inputs).logits, expected[0])
        again = llava.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert torch.equal(again, generated)
    assert not trace.tokens.reduces
    with patched(qwen2, Schedule(), visual_mask=mask_of()):
        assert torch.equal(qwen2(inputs_embeds=embeds).logits, expected[1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_unpatching_restores_everything(llava, attention):
    llava.set_attn_implementation(attention)
    inputs = video_inputs()
    expected = llava(**inputs).logits
    before = state(llava)
    for _ in range(3):
        with patched(llava, BOTH):
            assert not torch.equal(llava(**inputs).logits, expected[:, -12:])
            assert state(llava) != before
        assert state(llava) == before
    assert torch.equal(llava(**inputs).logits, expected)


def test_an_exception_restores_everything(llava):
    inputs = video_inputs()
    expected = llava(**inputs).logits
    before = state(llava)
    with contextlib.suppress(ZeroDivisionError), patched(llava, BOTH):
        llava(**inputs)
        1 / 0  # noqa: B018
    assert state(llava) == before
    assert torch.equal(llava(**inputs).logits, expected)


def test_a_failed_run_does_not_disturb_the_next(llava):
    inputs = video_inputs()
    with patched(llava, BOTH) as trace:
        expected = llava(**inputs).logits
        handle = llava.model.language_model.layers[3].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            llava(**inputs)
        handle.remove()
        assert torch.equal(llava(**inputs).logits, expected)
    assert trace.tokens.scored_layers


def test_a_prompt_that_failed_in_the_vision_tower_is_forgotten(llava):
    inputs = video_inputs()
    tokens = inputs["input_ids"].shape[1] - 4 * (9 - 3)
    with patched(llava, BOTH):
        handle = llava.model.vision_tower.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            llava(**inputs)
        handle.remove()
        with pytest.raises(PatchError, match="Patch with visual_mask"):
            llava(inputs_embeds=torch.randn(1, tokens, 64))


def test_a_failure_while_patching_restores_everything(llava, monkeypatch):
    before = state(llava)
    last = llava.model.language_model.layers[-1].mlp
    monkeypatch.setattr(type(last), "register_forward_pre_hook", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        patch(llava, BOTH)
    assert state(llava) == before


def test_a_replaced_generate_is_put_back(llava):
    llava.generate = mine = lambda *_, **__: "mine"
    with patched(llava, BOTH):
        assert llava.generate is not mine
    assert llava.generate is mine


def test_patch_and_unpatch_are_the_same_by_hand(qwen2):
    embeds, mask = torch.randn(1, 20, 64), mask_of()
    with patched(qwen2, PRUNE, visual_mask=mask):
        expected = qwen2(inputs_embeds=embeds).logits
    trace = patch(qwen2, PRUNE, visual_mask=mask)
    assert torch.equal(qwen2(inputs_embeds=embeds).logits, expected)
    unpatch(qwen2)
    assert trace.tokens.attention_tokens == (20, 20, 16, 12, 8, 8)
    with pytest.raises(PatchError, match="not"):
        unpatch(qwen2)


def test_a_patched_model_can_be_freed():
    model = tiny_qwen2()
    with patched(model, PRUNE, visual_mask=mask_of()):
        model(inputs_embeds=torch.randn(1, 20, 64))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_models_that_share_a_config_do_not_disturb_each_other():
    first = tiny_qwen2(seed=1)
    second = type(first)(first.config).eval()
    embeds = torch.randn(1, 20, 64)
    expected = second(inputs_embeds=embeds).logits
    with patched(first, PRUNE, visual_mask=mask_of()):
        assert torch.equal(second(inputs_embeds=embeds).logits, expected)


def test_a_changed_attention_implementation_is_noticed(qwen2):
    with patched(qwen2, PRUNE, visual_mask=mask_of()):
        qwen2.set_attn_implementation("eager")
        with pytest.raises(PatchError, match="attention implementation"):
            qwen2(inputs_embeds=torch.randn(1, 20, 64))


def test_hidden_states_can_still_be_asked_for(qwen2):
    with patched(qwen2, PRUNE, visual_mask=mask_of()) as trace:
        output = qwen2(inputs_embeds=torch.randn(1, 20, 64), output_hidden_states=True)
    assert output.hidden_states[0].shape[1] == 20
    assert output.hidden_states[-1].shape[1] == trace.tokens.attention_tokens[-1]


def test_without_a_cache_the_trace_says_so(qwen2):
    with patched(qwen2, PRUNE, visual_mask=mask_of()) as trace:
        qwen2(inputs_embeds=torch.randn(1, 20, 64), use_cache=False)
    assert trace.cache_tokens == ()
    assert trace.tokens.scored_layers == (1, 2)


def test_input_ids_of_a_bare_model_work_too(qwen2):
    ids = torch.randint(0, 200, (1, 20))
    with patched(qwen2, PRUNE, visual_mask=mask_of()):
        by_ids = qwen2(ids).logits
        by_embeds = qwen2(inputs_embeds=qwen2.get_input_embeddings()(ids)).logits
        generated = qwen2.generate(ids, max_new_tokens=3, do_sample=False)
    assert torch.equal(by_ids, by_embeds)
    assert torch.equal(generated[:, :20], ids)


def test_one_mask_serves_a_whole_batch(qwen2):
    embeds = torch.randn(3, 20, 64)
    with patched(qwen2, PRUNE, visual_mask=mask_of()) as trace:
        together = qwen2(inputs_embeds=embeds).logits
        assert trace.tokens.batch == 3
        alone = [qwen2(inputs_embeds=row[None]).logits for row in embeds]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_the_trace_is_empty_before_the_first_run(qwen2):
    with (
        patched(qwen2, PRUNE, visual_mask=mask_of()) as trace,
        pytest.raises(PatchError, match="Run the model"),
    ):
        _ = trace.tokens
