import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from aim_cost.errors import AimError
from aim_runtime import selfcheck
from aim_runtime.reduction import select as prune
from tests.runtime.support import shared_golden


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture
def recording(tmp_path):
    """(tensors, metadata, check): change the first two, then check() them from a file."""
    tensors, metadata = read(shared_golden("prefill_prune_std0.1.safetensors"))

    def check():
        save_file(tensors, tmp_path / "changed.safetensors", metadata)
        return selfcheck(tmp_path / "changed.safetensors")

    return tensors, metadata, check


def test_passes_here():
    result = selfcheck()
    assert result.passed
    assert result.total.kept_sets_equal is True
    assert result.total.greedy_tokens_equal is True
    assert 0 < result.total.max_logit_difference < 1e-4
    assert result.versions["torch"] == torch.__version__
    json.dumps(result.to_dict(), allow_nan=False)


def test_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    selfcheck()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("std", ["0.1", "0.2"])
def test_passes_with_recorded_vectors(std):
    result = selfcheck(shared_golden(f"prefill_prune_std{std}.safetensors"))
    assert result.passed
    assert set(result.checks) == {"reference", "vectors"}


def test_notices_a_wrong_selection(monkeypatch):
    right = prune.select_tokens

    def worst_first(visual, count, scores=None):
        return right(visual, count, None if scores is None else -scores)

    monkeypatch.setattr("aim_runtime.patching.prefill.select_tokens", worst_first)
    result = selfcheck()
    assert not result.passed
    assert not result.total.kept_sets_equal


def test_notices_another_kept_token(recording):
    tensors, _, check = recording
    kept = tensors["patched.kept_into_layer.18"]
    missing = (set(range(14, 211)) - set(kept.tolist())).pop()
    kept[20] = missing
    result = check()
    assert result.total.kept_sets_equal is False
    assert result.passed is False
    assert result.total.greedy_tokens_equal is True


def test_notices_other_logits(recording):
    tensors, _, check = recording
    tensors["patched.logits"][0, 5, 7] += 0.01
    tensors["patched.logits"][0, 100] = torch.nan  # a dropped position: means nothing
    result = check()
    assert result.total.max_logit_difference == pytest.approx(0.01, abs=1e-4)
    assert result.total.kept_sets_equal
    assert result.total.greedy_tokens_equal
    assert result.passed is False


def test_notices_other_tokens(recording):
    tensors, _, check = recording
    tensors["fixed.greedy_tokens"][0, 5] += 1
    result = check()
    assert result.total.greedy_tokens_equal is False
    assert result.passed is False


def test_notices_logits_that_are_not_numbers(recording):
    tensors, _, check = recording
    tensors["patched.logits"][0, 5, 7] = torch.nan
    result = check()
    assert result.total.max_logit_difference is None
    assert result.passed is False


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("inputs_embeds", "inputs_embeds"),
        ("patched.kept_into_layer.28", "kept_into_layer.28"),
        ("weights.model.norm.weight", "norm.weight"),
        ("fixed.greedy_tokens", "greedy"),
    ],
)
def test_refuses_incomplete_recordings(recording, name, match):
    tensors, _, check = recording
    del tensors[name]
    with pytest.raises(AimError, match=match):
        check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", "{"),
        ("config", "[]"),
        ("config", "{}"),
        ("boundaries", "[[14, 211]]"),
        ("boundaries", "[[14, 211, 233]]"),
        ("boundaries", "[[14, 234, 234]]"),
        ("boundaries", "[[20, 20, 234]]"),
        ("boundaries", '[["a", "b", "c"]]'),
    ],
)
def test_refuses_wrong_metadata(recording, name, value):
    _, metadata, check = recording
    metadata[name] = value
    with pytest.raises(AimError):
        check()


def test_refuses_files_that_are_no_recording(tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text("not one")
    empty = tmp_path / "empty.safetensors"
    save_file({}, empty)
    for path in (text, empty, tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(AimError):
            selfcheck(path)
