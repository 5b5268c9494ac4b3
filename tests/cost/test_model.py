"""Specs from Hugging Face configs."""

import json

import pytest

from aim_cost import ModelSpec, Schedule, Workload, load_model_spec, model_parameters, preset_config
from aim_cost.errors import SpecError
from aim_cost.models.model import preset_names
from aim_cost.models.vision_spec import parse_frame_size
from aim_cost.models.workload import VisualInput


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
        "llava-v1.6-vicuna-7b": (4096, 11008, 32, 32, 32, 32064),
        "llava-v1.6-mistral-7b": (4096, 14336, 32, 32, 8, 32064),
        "llava-v1.6-34b": (7168, 20480, 60, 56, 8, 64064),
        "llava-next-video-7b": (4096, 11008, 32, 32, 32, 32064),
        "qwen2-vl-7b": (3584, 18944, 28, 28, 4, 152064),
        "qwen2.5-vl-7b": (3584, 18944, 28, 28, 4, 152064),
        # the config.json files of Qwen/Qwen3-VL-*-Instruct
        "qwen3-vl-2b": (2048, 6144, 28, 16, 8, 151936),
        "qwen3-vl-4b": (2560, 9728, 36, 32, 8, 151936),
        "qwen3-vl-8b": (4096, 12288, 36, 32, 8, 151936),
        "qwen3-vl-32b": (5120, 25600, 64, 64, 8, 151936),
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
    video = load_model_spec("llava-next-video-7b")
    assert (video.frame_tokens, video.image_tokens, video.newline_tokens) == (144, 576, 0)
    qwen = load_model_spec("qwen2-vl-7b")
    assert (qwen.frame_tokens, qwen.group_frames, qwen.vision.frame_size) == (64, 2, (224, 224))


def laid_out(name, **workload):
    return Workload(9, **workload).visual_input(load_model_spec(name))


def test_a_qwen_group_is_a_temporal_patch_of_two_frames():
    assert laid_out("qwen2-vl-7b", frames=2) == VisualInput(1, 64, 0)
    assert laid_out("qwen2-vl-7b", frames=7) == VisualInput(4, 64, 0)
    assert laid_out("qwen2.5-vl-7b", frames=7, frame_size=(336, 280)) == VisualInput(4, 120, 0)
    assert laid_out("llava-next-video-7b", frames=7) == VisualInput(7, 144, 0)


def test_a_qwen_image_is_square_unless_its_size_is_given():
    assert laid_out("qwen2-vl-7b", image_tokens=256) == VisualInput(1, 256, 0)
    wide = {"image_tokens": 200, "frame_size": (280, 560)}
    assert laid_out("qwen2-vl-7b", **wide) == VisualInput(1, 200, 0)
    with pytest.raises(SpecError, match="frame-size"):
        laid_out("qwen2-vl-7b", image_tokens=200)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("qwen2-vl-7b", (230, 224)),
        ("qwen2-vl-7b", (0, 224)),
        ("qwen2-vl-7b", (224,)),
        ("qwen2-vl-7b", (224.0, 224)),
        ("llava-next-video-7b", (224, 224)),
    ],
)
def test_a_size_that_the_tower_does_not_take_is_refused(name, size):
    with pytest.raises(SpecError, match="frame_size"):
        laid_out(name, frames=2, frame_size=size)


def test_a_size_is_read_from_text():
    assert parse_frame_size("224x448") == (224, 448)
    for text in ("224", "224x", "224x448x2", "22.5x28", "big"):
        with pytest.raises(SpecError, match="--frame-size"):
            parse_frame_size(text)


def test_windows_are_cut_off_at_the_edges():
    # 6 x 9 merged tokens in windows of 4 x 4: two of 4 x 4, one of 4 x 1; below two of 2 x 4, 2 x 1
    tower = load_model_spec("qwen2.5-vl-7b").vision.at((6 * 28, 9 * 28))
    assert tower.segments(0) == {64: 2, 16: 1, 32: 2, 8: 1}
    assert tower.segments(7) == {6 * 9 * 4: 1}
    assert load_model_spec("qwen2-vl-7b").vision.segments(0) == {256: 1}


def test_schedules_reduce_each_group_and_then_each_layer():
    schedule = Schedule.parse("merge 0.25, prune linear:14:22")
    trace = schedule.resolve(load_model_spec("qwen2.5-vl-7b"), Workload(100, frames=8))
    assert (trace.groups, trace.merge_tokens, trace.visual_tokens) == (4, (64, 32, 16), 64)
    assert (trace.attention_tokens[0], trace.attention_tokens[-1]) == (164, 100)
    assert len(trace.attention_tokens) == 28


def test_parameter_count_of_the_real_checkpoints():
    # sizes of the 7B classes as transformers builds them (sum of numel on the meta device)
    sizes = {
        "llava-onevision-qwen2-7b": 8_030_807_584,
        "qwen2-vl-7b": 8_291_375_616,
        "qwen2.5-vl-7b": 8_292_166_656,
        "qwen3-vl-2b": 2_127_532_032,
        "qwen3-vl-8b": 8_767_123_696,
    }
    for name, size in sizes.items():
        assert model_parameters(load_model_spec(name)) == size


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
        ("text_config", "num_key_value_heads"),  # the class's 32 do not divide 28 heads
        ("text_config", "intermediate_size"),
        ("vision_config", "hidden_size"),
    ],
)
def test_a_null_is_named(section, key):
    broken = config()
    (broken[section] if section else broken)[key] = None
    if key == "num_key_value_heads":
        assert ModelSpec.from_hf_config(broken).text.num_key_value_heads == 28
        del broken[section][key]
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
        ("text_config", "model_type", "gemma", "text_config.model_type"),
        ("text_config", "model_type", ["llama"], "text_config.model_type"),
        ("vision_config", "hidden_size", 1153, "vision_config.hidden_size"),
        ("vision_config", "patch_size", 500, "patch_size"),
        (None, "vision_feature_layer", -40, "vision_feature_layer"),
        (None, "vision_feature_select_strategy", "default", "vision_feature_select_strategy"),
        (None, "vision_feature_select_strategy", "some", "vision_feature_select_strategy"),
        (None, "vision_config", [], "vision_config"),
        (None, "model_type", "qwen2_vl", "model_type"),
        (None, "model_type", "llama", "model_type"),
    ],
)
def test_a_contradiction_is_named(section, key, value, named):
    broken = config()
    (broken[section] if section else broken)[key] = value
    with pytest.raises(SpecError) as error:
        ModelSpec.from_hf_config(broken)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("model", "section", "key", "value", "named"),
    [
        ("qwen2-vl-7b", "vision_config", "embed_dim", 1281, "vision_config.hidden_size"),
        ("qwen2-vl-7b", "vision_config", "hidden_size", 3585, "text_config.hidden_size"),
        ("qwen2-vl-7b", "vision_config", "mlp_ratio", 2.5, "vision_config.mlp_ratio"),
        ("qwen2.5-vl-7b", "vision_config", "out_hidden_size", 8, "out_hidden_size"),
        ("qwen2.5-vl-7b", "vision_config", "fullatt_block_indexes", 7, "fullatt_block_indexes"),
        ("qwen2.5-vl-7b", "vision_config", "window_size", 14, "vision_config.window_size"),
        ("llava-next-video-7b", None, "spatial_pool_mode", "conv", "spatial_pool_mode"),
        ("llava-next-video-7b", None, "spatial_pool_stride", 0, "spatial_pool_stride"),
    ],
)
def test_a_contradiction_of_another_kind_is_named(model, section, key, value, named):
    broken = preset_config(model)
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
    with pytest.raises(SpecError, match="expected JSON, got"):
        load_model_spec(path)
