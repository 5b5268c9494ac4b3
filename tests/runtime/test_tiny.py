"""The tiny model: its prompts are the real model's, tokens leave in an exam, its weights answer."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the tiny model needs the extra tiny (scikit-learn)")

from aim_cost import Schedule
from aim_runtime import patched
from aim_runtime.errors import LoadError
from aim_runtime.reduction.chance import drawing
from aim_runtime.seams import lack_newlines
from aim_runtime.tiny.checkpoint import SHIPPED, load_tiny, save_checkpoint
from aim_runtime.tiny.exam import draw_exam, right_answers
from aim_runtime.tiny.model import (
    frame_features,
    frame_tokens,
    new_model,
    video_embeddings,
)
from aim_runtime.tiny.prompts import packed_logits, prompt_ids
from aim_runtime.tiny.questions import KINDS, QUESTION_WORDS, VOCABULARY
from aim_runtime.tiny.scenes import draw_clips


@pytest.fixture(scope="module")
def model():
    return new_model(0).eval()


def test_packed_questions_are_answered_as_single_prompts_of_the_whole_model(model):
    clips = draw_clips("validation", 2, 3, np.random.default_rng(0))
    pixels = torch.from_numpy(clips.pixels)
    questions = torch.randint(6, len(VOCABULARY), (2, 2, QUESTION_WORDS))
    with torch.no_grad():
        features = frame_features(model, pixels.flatten(0, 1)).unflatten(0, (2, 3))
        packed = packed_logits(model, features, questions)
        for clip in range(2):
            for question in range(2):
                ids = prompt_ids(questions[clip, question].tolist(), 3 * frame_tokens(model) + 1)
                single = model(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    pixel_values_videos=pixels[clip : clip + 1],
                ).logits[0, -1]
                torch.testing.assert_close(packed[clip, question], single, atol=1e-5, rtol=1e-4)


def test_features_are_those_the_model_makes(model):
    pixels = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        theirs = model.model.get_video_features(
            pixels, vision_feature_layer=-1, vision_feature_select_strategy="full"
        ).pooler_output
        ours = video_embeddings(model, frame_features(model, pixels[0])[None])
        if lack_newlines(theirs, ours.shape[1]):
            theirs = torch.cat([theirs, model.model.image_newline.expand(1, 1, -1)], dim=1)
    assert torch.equal(ours, theirs)


def test_an_exam_runs_the_model_with_tokens_really_dropped(model):
    exam = draw_exam(model, "test", 12)
    assert len(exam) == 12
    assert set(exam.kinds) == set(KINDS)
    plain = right_answers(model, exam, batch=5)
    with patched(model, Schedule()):
        assert torch.equal(right_answers(model, exam), plain)
    with patched(model, Schedule.parse("merge 0.25, prune linear:2:6")) as trace:
        right_answers(model, exam, batch=5)
        assert trace.tokens.merge_tokens == (16, 8, 4)
        assert trace.tokens.attention_tokens[-1] < trace.tokens.attention_tokens[0] == 41
        assert trace.tokens.batch == 2  # the last batch
    assert "forward" not in vars(model.model.vision_tower)


def test_an_exam_can_be_drawn_again(model):
    first, second, other = (draw_exam(model, "test", 6, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.input_ids, second.input_ids)
    assert torch.equal(first.patches, second.patches)
    assert not torch.equal(first.patches, other.patches)


def test_checkpoints_load_back_and_others_are_refused(model, tmp_path, monkeypatch):
    from aim_runtime.tiny import checkpoint as module

    monkeypatch.setattr(module, "_VALIDATION_CLIPS", 4)
    save_checkpoint(new_model(3), tmp_path / "mine", "the command", {"seconds": 1.0})
    loaded = load_tiny(tmp_path / "mine")
    for name, value in new_model(3).half().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.float()), name
    card = json.loads((tmp_path / "mine" / "card.json").read_text())
    assert card["command"] == "the command"
    assert set(card["validation"]) == set(KINDS)
    assert (tmp_path / "mine" / "model.safetensors").stat().st_size < 4e6
    (tmp_path / "mine" / "vocabulary.json").write_text("[]")
    for folder, fix in (("mine", "Train the checkpoint again"), ("nowhere", "tiny train")):
        with pytest.raises(LoadError, match=fix):
            load_tiny(tmp_path / folder)


@pytest.fixture(scope="module")
def shipped():
    return load_tiny(SHIPPED["tiny"])


@pytest.fixture(scope="module")
def exam(shipped):
    return draw_exam(shipped, "test", 300, seed=11)


def share(model, exam, label):
    with patched(model, Schedule.parse(label)):
        return float(right_answers(model, exam).float().mean())


def test_the_shipped_checkpoint_answers(shipped, exam):
    assert share(shipped, exam, "none") > 0.88
    for kind in KINDS:
        asked = torch.tensor([name == kind for name in exam.kinds])
        assert float(right_answers(shipped, exam)[asked].float().mean()) > 0.75, kind


def test_fewer_tokens_answer_less_and_similarity_beats_chance(shipped, exam):
    shares = [
        share(shipped, exam, label)
        for label in ("none", "merge 0.5 positions=kept", "merge 0.125 positions=kept")
    ]
    assert shares[0] > shares[2] + 0.1
    assert shares[0] >= shares[1] - 0.02 >= shares[2] - 0.02
    with drawing(0):
        chance = share(shipped, exam, "merge 0.25 by=random positions=kept")
    assert share(shipped, exam, "merge 0.25 positions=kept") > chance + 0.05
