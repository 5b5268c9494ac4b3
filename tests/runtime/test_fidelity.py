"""Fidelity compares distributions after the same words, and reads the user's prompts."""

import json

import pytest
import torch

from aim_cost import Schedule
from aim_runtime import load, patched
from aim_runtime.answers.fidelity import fidelity_rows, read_prompts
from aim_runtime.errors import InputError
from tests.runtime.support import tiny_llava, video_inputs

CUT = Schedule.parse("merge frame:3, prune linear:1:4")


@pytest.fixture(scope="module")
def loaded():
    """Weights as drawn by the class, wide enough that tokens matter."""
    result = load(tiny_llava().config.to_dict(), "cpu", "float32", random_weights=True)
    result.model.load_state_dict(tiny_llava(seed=4).state_dict())
    return result


def prompts(count=2):
    return [lambda seed=seed: video_inputs(frames=3, seed=seed) for seed in range(count)]


def test_no_reduction_changes_nothing_and_a_schedule_does(loaded):
    same, cut = fidelity_rows(loaded, prompts(), [Schedule(), CUT], new_tokens=4)
    assert same.kl_mean == same.kl_p95 == same.kl_first == 0
    assert same.top1_agreement == same.answers_equal == 1
    assert cut.kl_p95 >= cut.kl_mean > 1e-4
    assert cut.tokens_per_layer[-1] < same.tokens_per_layer[-1]
    assert (cut.prompts, cut.steps) == (2, 4)
    json.dumps([same.to_row(), cut.to_row()])


def test_the_first_divergence_is_that_of_the_prefill(loaded):
    inputs = video_inputs(frames=3, seed=0)
    (row,) = fidelity_rows(loaded, prompts(1), [CUT], new_tokens=1)
    with torch.inference_mode():
        p = loaded.model(**inputs).logits[0, -1].softmax(-1)
        with patched(loaded.model, CUT):
            q = loaded.model(**inputs).logits[0, -1].softmax(-1)
    assert row.kl_first == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-3)
    assert row.top1_agreement == float(p.argmax() == q.argmax())


def test_steps_follow_the_unreduced_answer(loaded):
    """With a wrong word in between, later steps of no reduction would not be the same."""
    rows = fidelity_rows(loaded, prompts(1), [CUT, Schedule()], new_tokens=5)
    assert rows[1].kl_mean == 0


def test_prompts_are_read_from_both_kinds_of_file(tmp_path):
    (tmp_path / "a.csv").write_text('video,question\nclip.mp4,"What, then?"\n')
    (tmp_path / "b.jsonl").write_text('{"video": "clip.mp4", "question": "What, then?"}\n\n')
    for name in ("a.csv", "b.jsonl"):
        (prompt,) = read_prompts(tmp_path / name)
        assert prompt.video == tmp_path / "clip.mp4"
        assert prompt.question == "What, then?"


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"video": "a.mp4"}'])
def test_files_without_prompts(tmp_path, text):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(InputError, match="video and question"):
        read_prompts(tmp_path / "p.jsonl")
    with pytest.raises(InputError, match="video and question"):
        read_prompts(tmp_path / "none.csv")
