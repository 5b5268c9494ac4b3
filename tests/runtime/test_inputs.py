"""A question about a video, as a checkpoint's tokenizer and preprocessing write it."""

import numpy as np
import pytest
import torch

from aim_cost import Schedule, Workload
from aim_runtime import load, patched
from aim_runtime.errors import InputError
from aim_runtime.prompts.inputs import question_inputs, sized_inputs
from aim_runtime.prompts.video import pixel_values
from tests.runtime.checkpoint import MEAN, STD, save_checkpoint
from tests.runtime.support import FRAME_TOKENS, VIDEO_TOKEN, tiny_llava


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def video():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)


def test_a_question_surrounds_the_video_in_the_chat_form(checkpoint, video):
    loaded = load(checkpoint, "cpu", "float32")
    inputs, tokenizer = question_inputs(loaded, video, "what moves here?")
    ids = inputs["input_ids"][0]
    visual = ids == VIDEO_TOKEN
    assert visual.sum() == 3 * FRAME_TOKENS + 1
    first, last = visual.nonzero()[[0, -1], 0].tolist()
    assert last - first + 1 == visual.sum()
    texts = (tokenizer.decode(part) for part in (ids[:first], ids[last + 1 :]))
    before, after = (" ".join(text.split()) for text in texts)
    assert before == "<|im_start|> user"
    assert after == "what moves here? <|im_end|> <|im_start|> assistant"
    expected = pixel_values(video, 75, MEAN, STD)
    torch.testing.assert_close(inputs["pixel_values_videos"], expected)
    with patched(loaded.model, Schedule.parse("merge frame:5, prune linear:1:4")) as trace:
        new = loaded.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert new.shape[1] == len(ids) + 3
    assert trace.tokens.text_tokens == len(ids) - int(visual.sum())


def test_a_checkpoint_without_a_tokenizer(tmp_path, video):
    tiny_llava().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="tokenizer and a preprocessor_config"):
        question_inputs(load(tmp_path, "cpu", "float32"), video, "what?")


def test_a_prompt_needs_text(checkpoint):
    with pytest.raises(InputError, match="text_tokens"):
        sized_inputs(load(checkpoint, "cpu", "float32"), Workload(text_tokens=0, frames=1))


def test_a_video_of_another_length(checkpoint, video):
    loaded = load(checkpoint, "cpu", "float32")
    with pytest.raises(InputError, match="4 frames"):
        sized_inputs(loaded, Workload(text_tokens=5, frames=4), video=video)
    inputs = sized_inputs(loaded, Workload(text_tokens=5, frames=3, batch=2), video=video)
    assert inputs["pixel_values_videos"].shape == (2, 3, 3, 75, 75)
    assert loaded.model(**inputs).logits.isfinite().all()


def test_inputs_have_exactly_the_tokens_of_the_workload(loaded):
    workload = Workload(text_tokens=11, frames=3, batch=2)
    inputs = sized_inputs(loaded, workload, seed=4)
    ids, pixels = inputs["input_ids"], inputs["pixel_values_videos"]
    visual = ids == VIDEO_TOKEN
    assert ids.shape == inputs["attention_mask"].shape == (2, 3 * FRAME_TOKENS + 1 + 11)
    assert (visual.sum(1) == 3 * FRAME_TOKENS + 1).all()
    assert not visual[:, 0].any()
    assert not visual[:, -1].any()
    assert not (ids == loaded.config.image_token_id).any()
    assert ids[~visual].unique().numel() > 10
    assert pixels.shape == (2, 3, 3, 75, 75)
    assert pixels.std().item() == pytest.approx(1, rel=0.05)
    assert not torch.equal(pixels[0], pixels[1])
    again, other = sized_inputs(loaded, workload, seed=4), sized_inputs(loaded, workload, seed=5)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    assert not torch.equal(ids, other["input_ids"])


def test_an_image_that_is_cut_is_given_by_its_size(loaded):
    with pytest.raises(InputError, match="--image HEIGHTxWIDTH"):
        sized_inputs(loaded, Workload(text_tokens=5, image_tokens=9))
