"""The defaults that configs are read with are those of transformers' classes."""

import pytest
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLVisionConfig,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import (
    Qwen2VLTextConfig,
    Qwen2VLVisionConfig,
)
from transformers.models.qwen3_vl.configuration_qwen3_vl import (
    Qwen3VLTextConfig,
    Qwen3VLVisionConfig,
)

from aim_cost.models.class_defaults import CLASS_DEFAULTS
from aim_cost.models.families import FAMILIES

DEFAULTS = CLASS_DEFAULTS | {name: family.defaults for name, family in FAMILIES.items()}
INNER = {
    "qwen2_vl_text": Qwen2VLTextConfig,
    "qwen2_vl_vision": Qwen2VLVisionConfig,
    "qwen2_5_vl_text": Qwen2_5_VLTextConfig,
    "qwen2_5_vl_vision": Qwen2_5_VLVisionConfig,
    "qwen3_vl_text": Qwen3VLTextConfig,
    "qwen3_vl_vision": Qwen3VLVisionConfig,
}
# what the class makes of None when it is built
FILLED = {"head_dim", "num_key_value_heads", "layer_types", "image_grid_pinpoints"}
SECTIONS = {"vision_config", "text_config"}


def built(model_type):
    kind = INNER.get(model_type)
    return AutoConfig.for_model(model_type) if kind is None else kind()


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_each_default_is_that_of_the_class(model_type):
    config, defaults = built(model_type), DEFAULTS[model_type]
    for name, value in defaults.items():
        if name in SECTIONS or (name in FILLED and value is None):
            assert value is None
        elif name == "sliding_window" and "use_sliding_window" in defaults:
            assert getattr(type(config)(use_sliding_window=True), name) == value
        elif name == "vision_use_head":  # older classes have no field: the tower takes it as true
            assert getattr(config, name, True) is value
        elif name == "tie_word_embeddings":
            assert bool(getattr(config, name, False)) is value
        else:
            found = getattr(config, name)
            assert (list(found) if isinstance(found, tuple) else found) == value, name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_without_sections_has_the_parts_of_the_class(model_type):
    config = AutoConfig.for_model(model_type)
    tower, text = config.vision_config, config.text_config
    family = FAMILIES[model_type]
    assert (tower.model_type, text.model_type) == (family.towers[0], family.decoders[0])
    own = CLASS_DEFAULTS[tower.model_type] | family.tower
    for name, value in own.items():
        found = getattr(tower, name)
        assert (list(found) if isinstance(found, tuple) else found) == value, name
