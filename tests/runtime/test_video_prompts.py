"""LLaVA-OneVision from pixels: prompts as the processor writes them, merged, in spans."""

import inspect
from contextlib import contextmanager

import pytest
import torch

from aim_cost import Schedule
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.models import find_adapter
from aim_runtime.prompts.layout import Layout
from tests.runtime.support import FRAME_TOKENS, VIDEO_TOKEN, video_inputs

BOTH = Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4)))


def test_the_trace_is_the_predicted_one(llava):
    with patched(llava, BOTH) as trace:
        llava(**video_inputs(frames=4, batch=2))
    assert trace.tokens == BOTH.resolve_visual(
        VisualInput(4, FRAME_TOKENS, 1), text_tokens=12, layers=6, batch=2
    )
    assert trace.tokens.merge_tokens == (9, 5, 3)
    assert [kept.shape[1] for kept in trace.kept[:-1]] == list(trace.tokens.attention_tokens)


def test_a_prompt_loses_the_ends_of_its_runs(llava):
    inputs = video_inputs()
    prepared = Layout(find_adapter(llava), BOTH).prepare(inputs)
    short, prompt = prepared.inputs, prepared.prompt
    assert short["input_ids"].shape == short["attention_mask"].shape == (1, 5 + 13 + 7)
    assert prompt.visual_mask.sum() == 13
    assert prompt.caller_tokens == 49
    text = inputs["input_ids"] != VIDEO_TOKEN
    assert torch.equal(
        short["input_ids"][short["input_ids"] != VIDEO_TOKEN], inputs["input_ids"][text]
    )
    kept = ~prompt.visual_mask
    assert torch.equal(prompt.cut.sources[kept], torch.arange(49)[None][text])


def test_the_callers_tensors_are_not_changed(llava):
    inputs = video_inputs()
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    with patched(llava, BOTH):
        llava.generate(**inputs, max_new_tokens=2)
    assert all(torch.equal(inputs[name], before[name]) for name in before)


def test_prompts_with_videos_at_different_places(llava):
    first, second = video_inputs(before=3, after=7), video_inputs(before=6, after=4, seed=5)
    both = {name: torch.cat([first[name], second[name]]) for name in first}
    with patched(llava, BOTH) as trace:
        together = llava(**both).logits
        kept = trace.kept[3]
        alone = [llava(**first).logits, llava(**second).logits]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
    assert not torch.equal(kept[0], kept[1])


def test_spans_name_merging_and_every_drop(llava):
    seen = []

    class Names:
        @contextmanager
        def span(self, name):
            seen.append(name)
            yield
            seen.append(f"end {name}")

    with patched(llava, BOTH, recorder=Names()):
        llava(**video_inputs())
        llava.generate(**video_inputs(), max_new_tokens=3)
    once = [
        "merge",
        "end merge",
        *["importance", "end importance"] * 2,
    ]  # where all leave, none is ranked
    assert seen == once * 2


def test_features_encoded_once_serve_many_questions(llava):
    first, second = video_inputs(), video_inputs(before=2, after=9, seed=8)
    second["pixel_values_videos"] = first["pixel_values_videos"]
    if "mm_encoder_outputs" not in inspect.signature(llava.forward).parameters:
        pytest.skip("this version of transformers takes no ready features")
    with patched(llava, BOTH):
        expected = llava(**second).logits
        llava(**first)
        features = llava.model.get_video_features(second.pop("pixel_values_videos"))
        ready = {"video": features}
        assert torch.equal(llava(**second, mm_encoder_outputs=ready).logits, expected)


def test_bfloat16_runs(llava):
    llava.bfloat16()
    inputs = video_inputs()
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].bfloat16()
    with patched(llava, BOTH) as trace:
        assert torch.isfinite(llava(**inputs).logits).all()
    assert trace.tokens.scored_layers == (1, 2)
