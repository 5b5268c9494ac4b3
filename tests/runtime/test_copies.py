"""Copies, pickles and saved files of a patched model."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from aim_cost import Schedule
from aim_runtime import PatchError, patched
from tests.runtime.support import tiny_llava, tiny_qwen2, video_inputs

GREEDY = {"max_new_tokens": 4, "do_sample": False}
SCHEDULES = ["none", "merge 0.5", "merge 0.5, prune linear:1:4 drop=after-attention"]
PARTS = {
    "the model": lambda model: model,
    "what lacks its head": lambda model: model.model,
    "the decoder": lambda model: model.model.language_model,
    "the layers": lambda model: model.model.language_model.layers,
    "a layer": lambda model: model.model.language_model.layers[1],
    "a wrapper": lambda model: nn.Sequential(model),
}
CHANGED = dict(
    zip(PARTS.values(), ("model", "language_model", "layers.0", "0", "mlp", "0.model"), strict=True)
)
"""A module in each of PARTS that a patch itself changes."""
WAYS = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": pickle.dumps,
    "torch.save": lambda module: torch.save(module, io.BytesIO()),
}


def answer(model):
    return model.generate(**video_inputs(), **GREEDY)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_copy_inside_the_block_is_refused(part, way, schedule):
    model = tiny_llava(layers=2)
    expected = answer(model)
    module = part(model)
    if way is copy.copy:
        module = module.get_submodule(CHANGED[part])  # others would share the parts they hold
    with patched(model, Schedule.parse(schedule)):
        inside = answer(model)
        with pytest.raises(PatchError, match=r"inside its patched block.*before the with block"):
            way(module)
        assert torch.equal(answer(model), inside)
    assert torch.equal(answer(model), expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_copy_after_the_block_is_a_model_of_its_own(schedule):
    model = tiny_llava(layers=2)
    with patched(model, Schedule.parse(schedule)):
        pass  # a model that has run holds functions of transformers that no pickle takes
    pickled = pickle.loads(pickle.dumps(model))
    with patched(model, Schedule.parse(schedule)):
        answer(model)
    for twin in (copy.deepcopy(model), pickled):
        assert torch.equal(answer(twin), answer(model))
        nn.init.zeros_(twin.lm_head.weight)
        start = video_inputs()["input_ids"].shape[1]
        assert answer(twin)[0, start:].tolist() == [0] * 4
        assert answer(model)[0, start:].tolist() != [0] * 4
        with patched(twin, Schedule.parse(schedule)):
            assert answer(twin)[0, start:].tolist() == [0] * 4


def test_a_merging_tower_is_not_copied():
    model = tiny_llava(layers=2)
    tower = model.model.vision_tower
    with patched(model, Schedule.parse("vision-merge 4")), pytest.raises(PatchError, match="block"):
        copy.deepcopy(tower)
    copy.deepcopy(tower)


def test_what_the_error_advises_works(tmp_path):
    model = tiny_llava(layers=2)
    expected = answer(model)
    with patched(model, Schedule.parse("merge 0.5, prune linear:0:1")):
        weights = copy.deepcopy(model.state_dict())
        model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    other = tiny_llava(layers=2, seed=5)
    other.load_state_dict(weights)
    for twin in (loaded, other):
        assert twin.config.text_config._attn_implementation == "sdpa"
        assert torch.equal(answer(twin), expected)


def test_a_config_that_is_copied_inside_the_block_makes_a_plain_model():
    model, mask = tiny_qwen2(layers=2), torch.arange(20)[None].remainder(17) >= 3
    ids = torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(3))
    expected = model(ids).logits
    with patched(model, Schedule.parse("prune linear:0:1"), visual_mask=mask):
        twin = type(model)(copy.deepcopy(model.config)).eval()
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin(ids).logits, expected)
    assert torch.equal(twin(ids).logits, expected)
