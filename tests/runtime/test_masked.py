"""Masking drops nothing and keeps what dropping keeps."""

import pytest
import torch

from aim_cost import Schedule
from aim_runtime import PatchError, load, patched
from aim_runtime.patching.masked import masked
from tests.runtime.support import tiny_llava, video_inputs


@pytest.fixture
def loaded():
    return load(tiny_llava().config.to_dict(), "cpu", "float32", random_weights=True, seed=3)


@pytest.mark.parametrize(
    "label", ["prune linear:1:5", "merge frame:4, prune linear:0:3", "merge 0.5"]
)
def test_the_logits_are_those_of_dropping(loaded, label):
    schedule, inputs = Schedule.parse(label), video_inputs(frames=4)
    before = loaded.model(**inputs).logits
    with patched(loaded.model, schedule) as trace:
        dropped = loaded.model(**inputs, logits_to_keep=1).logits
        counts = trace.tokens.attention_tokens
    with masked(loaded.model, schedule) as trace:
        kept_all = loaded.model(**inputs, logits_to_keep=1).logits
        assert set(trace.tokens.attention_tokens) == {counts[0]}  # nothing left
    torch.testing.assert_close(kept_all, dropped, atol=2e-5, rtol=1e-4)
    assert torch.equal(loaded.model(**inputs).logits, before)


def test_other_tokens_change_the_logits(loaded):
    """The check above would not notice a mask that hides nothing, if hiding changed nothing."""
    inputs = video_inputs(frames=4)
    outputs = []
    for label in ("prune linear:1:5", "none"):
        with masked(loaded.model, Schedule.parse(label)):
            outputs.append(loaded.model(**inputs, logits_to_keep=1).logits)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "label",
    [
        "prune linear:1:5 score=text-attention",
        "prune linear:1:5 drop=after-attention",
        "select 0.5, prune linear:1:5",
    ],
)
def test_other_ways_to_prune_are_refused(loaded, label):
    with (
        pytest.raises(PatchError, match="as AIM masks"),
        masked(loaded.model, Schedule.parse(label)),
    ):
        pass


def test_a_batch_is_refused(loaded):
    inputs = video_inputs(frames=4, batch=2)
    refused = pytest.raises(PatchError, match="one prompt at a time")
    with masked(loaded.model, Schedule.parse("prune linear:1:5")), refused:
        loaded.model(**inputs)
