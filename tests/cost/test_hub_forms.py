"""Configs as the hub has them: forms, class defaults, and the notes that follow from a field."""

import json

import pytest

from aim_cost import Case, ModelSpec, Schedule, Workload, compare, plan, preset_config
from aim_cost.errors import SpecError

QWEN_FLAT = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "vision_config": {"hidden_size": 1280, "in_chans": 3, "out_hidden_size": 2048},
}


def read(config):
    return ModelSpec.from_hf_config(config, name="given")


def with_text(preset, **fields):
    config = preset_config(preset)
    config["text_config"] |= fields
    return read(config)


def test_the_fields_of_the_llm_may_lie_at_the_root():
    spec = read(QWEN_FLAT)
    text = spec.text
    assert (text.num_hidden_layers, text.hidden_size, text.key_value_dim) == (36, 2048, 256)
    assert text.tie_word_embeddings
    assert (spec.vision.num_hidden_layers, spec.vision.intermediate_size) == (32, 3420)
    nested = {"model_type": "qwen2_5_vl", "vision_config": QWEN_FLAT["vision_config"]}
    inner = {k: v for k, v in QWEN_FLAT.items() if k not in ("model_type", "vision_config")}
    assert read(nested | {"text_config": inner}) == spec
    # where both are there, text_config wins
    assert read(QWEN_FLAT | {"text_config": inner, "hidden_size": 64}) == spec


def test_what_a_file_leaves_out_is_the_default_of_its_class():
    config = preset_config("llava-1.5-7b")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        del config["text_config"][name]
    del config["text_config"]["num_key_value_heads"], config["vision_config"]["num_channels"]
    del config["vision_feature_layer"], config["vision_feature_select_strategy"]
    assert read(config) == read(preset_config("llava-1.5-7b"))
    assert read({"model_type": "llava"}).vision.num_hidden_layers == 24
    assert read({"model_type": "llava_onevision"}).text.vocab_size == 151936


@pytest.mark.parametrize(
    ("outer", "inner", "tied"),
    [(True, False, True), (False, True, True), (None, True, True), (None, None, False)],
)
def test_embeddings_are_tied_at_either_level(outer, inner, tied):
    config = preset_config("llava-onevision-qwen2-7b")
    del config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]
    if outer is not None:
        config["tie_word_embeddings"] = outer
    if inner is not None:
        config["text_config"]["tie_word_embeddings"] = inner
    assert read(config).text.tie_word_embeddings is tied


def test_the_format_of_the_original_llava_is_told_from_a_config_of_transformers():
    original = {
        "model_type": "llava",
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    with pytest.raises(SpecError, match=r"text_config: .* original LLaVA .* llava-hf"):
        read(original)


@pytest.mark.parametrize("kind", ["gemma", "qwen3", "qwen2_moe", "phi3", "mixtral", None, 5, {}])
def test_an_llm_whose_ops_are_not_modelled_is_refused(kind):
    with pytest.raises(SpecError, match=r"text_config\.model_type: .*Known: llama, mistral, qwen2"):
        with_text("llava-1.5-7b", model_type=kind)


@pytest.mark.parametrize("kind", ["pixtral", "siglip2_vision_model", "dinov2", "clip"])
def test_a_tower_that_is_not_modelled_is_refused(kind):
    config = preset_config("llava-1.5-7b")
    config["vision_config"]["model_type"] = kind
    with pytest.raises(SpecError, match=r"vision_config\.model_type"):
        read(config)


@pytest.mark.parametrize(
    ("preset", "section", "field", "value"),
    [
        ("llava-1.5-7b", "text_config", "head_dim", 127),
        ("llava-1.5-7b", "text_config", "hidden_size", 4097),
        ("llava-1.5-7b", "text_config", "num_hidden_layers", 1025),
        ("llava-1.5-7b", "text_config", "vocab_size", 2**31 + 1),
        ("llava-1.5-7b", "text_config", "attention_bias", 1),
        ("llava-1.5-7b", "text_config", "hidden_act", "swish"),
        ("llava-1.5-7b", "text_config", "layer_types", ["sliding_attention"] * 32),
        ("llava-1.5-7b", "text_config", "per_layer_config", [{}]),
        ("llava-1.5-7b", "text_config", "max_position_embeddings", 0),
        ("llava-1.5-7b", "text_config", "rope_scaling", {"type": "linear"}),
        ("llava-1.5-7b", "text_config", "rope_scaling", {"type": "mrope"}),
        ("llava-1.5-7b", "text_config", "rope_scaling", "linear"),
        ("llava-1.5-7b", "vision_config", "image_size", [336, 336]),
        ("llava-1.5-7b", "vision_config", "patch_size", 14.0),
        ("llava-1.5-7b", "vision_config", "hidden_act", "gelu_new"),
        ("llava-1.5-7b", "vision_config", "num_channels", 10**30),
        ("llava-onevision-qwen2-7b", "text_config", "layer_types", ["full_attention"]),
        ("llava-onevision-qwen2-7b", "text_config", "use_sliding_window", 1),
        ("llava-onevision-qwen2-7b", "vision_config", "vision_use_head", "no"),
        ("llava-onevision-qwen2-7b", None, "vision_aspect_ratio", "anyres_max_10000"),
        ("llava-onevision-qwen2-7b", None, "image_grid_pinpoints", [[384, 384 * 100]]),
        ("llava-onevision-qwen2-7b", None, "multimodal_projector_bias", "no"),
        ("llava-next-video-7b", None, "spatial_pool_stride", 25),
        ("qwen2-vl-7b", "text_config", "head_dim", 64),
        ("qwen2-vl-7b", "vision_config", "num_heads", 640),
        ("qwen2-vl-7b", "vision_config", "num_attention_heads", 8),
        ("qwen2.5-vl-7b", "vision_config", "fullatt_block_indexes", [7, "a"]),
        ("qwen2.5-vl-7b", "aim_cost", "image_pixels", []),
        ("qwen2.5-vl-7b", "aim_cost", "image_pixels", [4, 2**40]),
    ],
)
def test_a_wrong_size_is_one_error_that_names_the_field(preset, section, field, value):
    config = preset_config(preset)
    (config[section] if section else config)[field] = value
    with pytest.raises(SpecError) as error:
        read(config)
    name = field if section is None else f"{section}.{field}"
    assert error.value.where.startswith(name)


def test_a_nested_file_that_no_parser_takes_is_one_error(tmp_path):
    path = tmp_path / "config.json"
    for text in ("[" * 100_000, '{"model_type": "llava", "hidden_size": ' + "9" * 5000 + "}", "7"):
        path.write_text(text)
        with pytest.raises(SpecError):
            ModelSpec.from_hf_config(path)


def note(result, words):
    """The sentence about ``words``; '' without any."""
    return next((text for text in result.notes if words in text), "")


def test_a_prompt_longer_than_the_positions_is_priced_with_a_word():
    case = Case("llava-onevision-qwen2-7b", Workload(100, frames=256), "h100-sxm")
    result = case.price()
    said = note(result, "positions")
    assert "50,277 positions" in said
    assert "made for 32,768 (max_position_embeddings)" in said
    assert result.to_row()["notes"] == [said]
    merged = case.price(Schedule.parse("merge 0.25"))
    assert not merged.notes
    kept = case.price(Schedule.parse("merge 0.25 positions=kept"))
    assert "50,277 positions" in note(kept, "positions")
    for answer in (result, compare(case, "aim")):
        assert said in " ".join(str(answer).split())
    planned = plan(case)
    (said,) = planned.result.notes
    assert said in " ".join(str(planned).split())
    assert planned.to_row()["notes"] == [said]
    assert not Case("llava-onevision-qwen2-7b", Workload(100, frames=166), "h100-sxm").price().notes


@pytest.mark.parametrize(
    ("fields", "positions"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, 8192),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 16384),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 64}},
            4096,
        ),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 4096),
        ({"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_type": "x"}}, 4096),
    ],
)
def test_a_stretching_of_positions_counts(fields, positions):
    assert with_text("llava-1.5-7b", **fields).text.positions == positions


@pytest.mark.parametrize(
    ("preset", "fields", "window", "layers"),
    [
        ("llava-1.5-7b", {"model_type": "mistral"}, 4096, 32),
        ("llava-1.5-7b", {"model_type": "mistral", "sliding_window": None}, None, 0),
        ("llava-onevision-qwen2-7b", {"sliding_window": 100}, None, 0),
        ("llava-onevision-qwen2-7b", {"use_sliding_window": True}, None, 0),  # 28 are full
        (
            "llava-onevision-qwen2-7b",
            {"use_sliding_window": True, "max_window_layers": 20, "sliding_window": 512},
            512,
            8,
        ),
        ("qwen2-vl-7b", {"use_sliding_window": True, "max_window_layers": 0}, 4096, 28),
        (
            "qwen2-vl-7b",
            {
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"] * 14,
            },
            4096,
            14,
        ),
    ],
)
def test_a_sliding_window_is_read_as_the_class_reads_it(preset, fields, window, layers):
    text = with_text(preset, **fields).text
    assert (text.sliding_window, text.sliding_layers) == (window, layers)


def test_a_prompt_longer_than_the_window_is_priced_with_a_word():
    spec = with_text("llava-1.5-7b", model_type="mistral", sliding_window=600)
    full = with_text("llava-1.5-7b", model_type="mistral", sliding_window=None)

    def price(model, text_tokens):
        return Case(model, Workload(text_tokens, image_tokens=576), "h100-sxm").price()

    assert not price(spec, 20).notes
    longer = price(spec, 24)
    assert "32 of 32 layers attend to the last 600 tokens" in note(longer, "sliding_window")
    plain = price(full, 24)
    assert (longer.flops, longer.ttft_s) == (plain.flops, plain.ttft_s)
    # a mask of a byte a pair; the MLP holds more than attention with it in its own width
    assert longer.memory.llm_activation_bytes == plain.memory.llm_activation_bytes + 600**2


def test_a_class_default_of_a_json_file_is_read_from_disk(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN_FLAT))
    assert ModelSpec.from_hf_config(tmp_path).text == read(QWEN_FLAT).text
