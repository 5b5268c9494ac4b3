"""How hidden states lie in memory between the layers of a tower: what an addition costs."""

import pytest
import torch

from aim_cost import ModelSpec
from tests.runtime.models import tiny_llava_15, tiny_next, tiny_next_video
from tests.runtime.qwen import KINDS, tiny_qwen
from tests.runtime.support import tiny_llava


@pytest.mark.parametrize("make", [tiny_llava, tiny_llava_15, tiny_next, tiny_next_video])
def test_hidden_states_lie_as_the_tower_says(make):
    model = make()
    spec = ModelSpec.from_hf_config(model.config.to_dict(), name="tiny")
    seen = []
    for layer in _layers(model.model.vision_tower):
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append([*args, *kwargs.values()][0].stride()),
            with_kwargs=True,
        )
    with torch.inference_mode():
        model.model.vision_tower(torch.randn(2, 3, spec.square_side, spec.square_side))
    assert len(seen) == spec.vision.num_hidden_layers
    assert {stride[-1] != 1 for stride in seen} == {spec.vision.channel_major}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_of_qwen_lie_token_by_token(kind):
    model = tiny_qwen(kind)
    spec = ModelSpec.from_hf_config(model.config.to_dict(), name="tiny")
    with torch.inference_mode():
        states = model.model.visual.patch_embed(torch.randn(8, spec.vision.patch_elements))
    assert states.is_contiguous() and not spec.vision.channel_major


def _layers(tower):
    (found,) = (part for name, part in tower.named_modules() if name.endswith("encoder.layers"))
    return found
