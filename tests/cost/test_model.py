"""Specs from Hugging Face configs."""

import json

import pytest

from aim_cost.errors import SpecError
from aim_cost.model import ModelSpec, load_model_spec, preset_config, preset_names
from aim_cost.parameters import model_parameters


def config():
    return preset_config("llava-onevision-qwen2-7b")


def test_presets_match_the_published_dims():
    # ../shared/facts/models.md: hidden, intermediate, layers, heads, kv heads, vocabulary
    dims = {
        "llava-onevision-qwen2-0.5b": (896, 4864, 24, 14, 2, 152000),
        "llava-onevision-qwen2-7b": (3584, 18944, 28, 28, 4, 152128),
        "llava-onevision-qwen2-72b": (8192, 29568, 80, 64, 8, 152128),
        "llava-1.5-7b": (4096, 11008, 32, 32, 32, 32064),
        "llava-1.5-13b": (5120, 13824, 40, 40, 40, 32064),
    }
    assert preset_names() == sorted(dims)
    for name, expected in dims.items():
        text = load_model_spec(name).text
        assert (
            text.hidden_size,
            text.intermediate_size,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.vocab_size,
        ) == expected


def test_visual_token_counts():
    onevision, llava = load_model_spec("llava-onevision-qwen2-7b"), load_model_spec("llava-1.5-7b")
    assert (onevision.frame_tokens, onevision.image_tokens) == (196, 729)
    assert (llava.image_tokens, llava.vision.tokens) == (576, 577)
    with pytest.raises(SpecError, match="takes video"):
        _ = llava.frame_tokens


def test_parameter_count_of_the_real_checkpoints():
    # sizes of the 7B classes as transformers builds them (sum of numel on the meta device)
    assert model_parameters(load_model_spec("llava-onevision-qwen2-7b")) == 8_030_807_584


@pytest.mark.parametrize("path", ["file", "folder"])
def test_a_config_is_read_from_a_file_or_its_folder(tmp_path, path):
    (tmp_path / "config.json").write_text(json.dumps(config()))
    spec = load_model_spec(tmp_path if path == "folder" else tmp_path / "config.json")
    assert spec.text == load_model_spec("llava-onevision-qwen2-7b").text
    assert spec.name == tmp_path.name


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (None, "model_type"),
        (None, "vision_config"),
        (None, "vision_feature_layer"),
        ("text_config", "hidden_size"),
        ("text_config", "num_key_value_heads"),
        ("vision_config", "patch_size"),
    ],
)
def test_a_missing_field_is_named(section, key):
    broken = config()
    del (broken[section] if section else broken)[key]
    with pytest.raises(SpecError) as error:
        ModelSpec.from_hf_config(broken)
    assert (f"{section}.{key}" if section else key) in str(error.value)


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("text_config", "hidden_size", -3, "text_config.hidden_size"),
        ("text_config", "hidden_size", True, "text_config.hidden_size"),
        ("text_config", "hidden_size", "3584", "text_config.hidden_size"),
        ("text_config", "hidden_size", 3585, "text_config.hidden_size"),
        ("text_config", "num_key_value_heads", 5, "num_key_value_heads"),
        ("text_config", "model_type", "llama", "model_type"),
        ("vision_config", "hidden_size", 1153, "vision_config.hidden_size"),
        ("vision_config", "patch_size", 500, "patch_size"),
        (None, "vision_feature_layer", -40, "vision_feature_layer"),
        (None, "vision_feature_select_strategy", "default", "vision_feature_select_strategy"),
        (None, "vision_feature_select_strategy", "some", "vision_feature_select_strategy"),
        (None, "model_type", "qwen2_vl", "model_type"),
    ],
)
def test_a_contradiction_is_named(section, key, value, named):
    broken = config()
    (broken[section] if section else broken)[key] = value
    with pytest.raises(SpecError) as error:
        ModelSpec.from_hf_config(broken)
    assert named in str(error.value)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(SpecError, match=r"llava-1\.5-7b"):
        load_model_spec("gpt-2")


def test_a_broken_file_is_one_clear_error(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(SpecError, match="valid JSON"):
        load_model_spec(path)
