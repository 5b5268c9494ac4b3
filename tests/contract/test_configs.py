"""Configs as the hub and fine-tunes have them: the spec of each is that of the class it builds.

``tests/configs`` has the fields that decide sizes, each file with its source. The classes are built
on the meta device, whole.
"""

import copy
import functools
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from aim_cost import ModelSpec, Workload, estimate, load_hardware, model_parameters
from aim_cost.models.parameters import weights_bytes
from aim_cost.schedules.schedule import Schedule
from aim_runtime.models import MODEL_TYPES
from tests.contract.test_flops_models import counted, empty, prompt_flops, qwen_features

FOLDER = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
QUANTISED = [
    name for name in NAMES if "quantization_config" in (FOLDER / f"{name}.json").read_text()
]


def fields(name):
    return json.loads((FOLDER / f"{name}.json").read_text())["config"]


def on_meta(config):
    """The model that transformers builds from the fields of a file."""
    given = copy.deepcopy(config)
    built = AutoConfig.for_model(given.pop("model_type"), **given)
    with torch.device("meta"):
        model = MODEL_TYPES[built.model_type](built).to(torch.bfloat16).eval()
    model.tie_weights()
    return model


def check(config):
    """Parameters, matrices and FLOPs of the spec equal those of the class. Returns: the spec."""
    spec, model = ModelSpec.from_hf_config(config, name="from a file"), on_meta(config)
    assert sum(p.numel() for p in model.parameters()) == model_parameters(spec)
    linears = {
        path: (linear.inputs, linear.outputs, linear.bias)
        for linear in (*spec.vision_linears, *spec.text.linears)
        for path in linear.paths
    }
    found = {
        name: (m.in_features, m.out_features, m.bias is not None)
        for name, m in model.named_modules()
        if type(m) is torch.nn.Linear and not (name == "lm_head" and spec.text.tie_word_embeddings)
    }
    assert found.items() <= linears.items()
    assert len(found) == len(spec.vision_linears) + len(spec.text.linears)
    assert model.config.tie_word_embeddings is spec.text.tie_word_embeddings
    if spec.vision.takes_video:
        workload = Workload(20, frames=2, frame_size=(3 * spec.vision.unit, 5 * spec.vision.unit))
    elif spec.takes_video:
        workload = Workload(20, frames=1)
    elif spec.image_rule is not None:
        workload = Workload(20, images=((200, 500),))
    else:
        workload = Workload(20, image_tokens=spec.image_tokens)
    result = estimate(spec, workload, Schedule(), load_hardware("h100-sxm"))
    flops, tokens = counted(lambda: features(model, spec, workload))
    assert flops == result.phase("vision").flops
    visual = result.trace.visual_tokens  # older releases append the newline in the forward
    assert tokens in (visual, visual - spec.newline_tokens)
    assert prompt_flops(model, workload, visual) == result.phase("llm").flops
    return spec


def features(model, spec, workload):
    """Run from pixels to visual tokens; how many there are."""
    if spec.vision.takes_video:
        (video,) = qwen_features(model, workload)
        return len(video)
    side = spec.vision.frame_size[0]
    if workload.images is not None:
        (grid,) = workload.image_grids(spec)
        pixels, sizes = empty(1, grid.crops, 3, side, side), torch.tensor(workload.images)
        found = model.model.get_image_features(pixels, sizes).pooler_output
    elif workload.frames is None:
        found = model.model.get_image_features(empty(1, 3, side, side)).pooler_output
    else:
        found = model.model.get_video_features(empty(1, 1, 3, side, side)).pooler_output
    return sum(part.shape[:-1].numel() for part in found)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_the_hub_is_the_class_it_builds(name):
    check(fields(name))


def test_there_are_thirty_of_every_family():
    assert len(NAMES) >= 30
    assert {fields(name)["model_type"] for name in NAMES} == set(MODEL_TYPES)


@functools.cache
def small(family):
    """The fields of a small model, few enough to be varied."""
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 200}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    if family.startswith("qwen"):
        rope = {"type": "mrope", "mrope_section": [2, 3, 3]}
        vision = {"depth": 2, "num_heads": 2, "hidden_size": 64, "embed_dim": 32}
        if family != "qwen2_vl":
            vision = {"depth": 2, "num_heads": 2, "hidden_size": 32, "out_hidden_size": 64}
        if family == "qwen3_vl":
            text["head_dim"] = 16
            rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
            vision |= {"intermediate_size": 48, "deepstack_visual_indexes": [0, 1]}
        return {"model_type": family, "text_config": text | {"rope_scaling": rope}} | {
            "vision_config": vision
        }
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    found = {"model_type": family, "text_config": text, "vision_config": vision}
    if family == "llava_next":  # whose images are cut into tiles of the tower's size
        found["image_grid_pinpoints"] = [[32, 64], [64, 32], [64, 64]]
    return found


def varied(family, root=None, text=None, vision=None):
    config = copy.deepcopy(small(family))
    config["text_config"] |= text or {}
    config["vision_config"] |= vision or {}
    return config | (root or {})


SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False}
FULL = {"vision_feature_select_strategy": "full"}


@pytest.mark.parametrize(
    ("family", "root", "text", "vision"),
    [
        ("llava", {}, {"attention_bias": True}, {}),
        ("llava", {}, {"mlp_bias": True, "attention_bias": True}, {}),
        ("llava", {"multimodal_projector_bias": False}, {}, {}),
        ("llava_onevision", {"multimodal_projector_bias": False}, {}, {}),
        ("llava_next", {"multimodal_projector_bias": False}, {"attention_bias": True}, {}),
        ("llava_next_video", {"multimodal_projector_bias": False}, {"mlp_bias": True}, {}),
        ("llava", {}, {"head_dim": 24}, {}),
        ("llava", {}, {"num_key_value_heads": None}, {}),
        ("llava", {}, {"model_type": "mistral", "head_dim": 8}, {}),
        ("llava", {}, {"model_type": "mistral", "sliding_window": None}, {}),
        ("llava", {}, {"model_type": "mistral", "sliding_window": 4}, {}),
        ("llava", {}, {"model_type": "qwen2", "head_dim": 32, "attention_bias": False}, {}),
        (
            "llava",
            {},
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1},
            {},
        ),
        ("llava", FULL, {}, {}),
        ("llava", FULL, {}, SIGLIP),
        ("llava", {}, {}, SIGLIP),  # the default drops SigLIP's first patch
        ("llava", FULL, {}, {"model_type": "siglip_vision_model"}),  # with its head
        ("llava_onevision", {}, {}, {"model_type": "siglip_vision_model", "image_size": 40}),
        (
            "llava_onevision",
            {"vision_feature_select_strategy": "default"},
            {},
            {"model_type": "clip_vision_model"},
        ),
        ("llava_onevision", {}, {"model_type": "llama"}, {}),
        ("llava_next", FULL, {"model_type": "qwen2"}, SIGLIP),
        ("llava_next_video", FULL, {"model_type": "qwen2"}, SIGLIP),
        ("llava_next_video", {"spatial_pool_stride": 3}, {}, {"image_size": 56}),
        ("llava", {"tie_word_embeddings": True}, {}, {}),
        ("llava", {"tie_word_embeddings": False}, {"tie_word_embeddings": True}, {}),
        ("qwen2_vl", {"tie_word_embeddings": True}, {}, {}),
        ("qwen2_5_vl", {"tie_word_embeddings": False}, {"tie_word_embeddings": True}, {}),
        ("qwen2_vl", {}, {"attention_bias": False, "mlp_bias": True}, {"mlp_ratio": 2}),
        ("qwen2_5_vl", {}, {}, {"in_chans": 4, "patch_size": 12, "temporal_patch_size": 1}),
        ("qwen2_5_vl", {}, {"layer_types": ["full_attention"] * 3}, {"in_channels": 4}),
        ("qwen3_vl", {}, {}, {}),
        ("qwen3_vl", {"tie_word_embeddings": True}, {"attention_bias": True}, {"depth": 3}),
        ("qwen3_vl", {}, {"head_dim": 24, "num_key_value_heads": None}, {"patch_size": 12}),
        ("qwen3_vl", {}, {"tie_word_embeddings": True}, {"num_position_embeddings": 49}),
        ("qwen3_vl", {}, {}, {"deepstack_visual_indexes": [1, 5]}),  # a merger that never runs
        ("qwen3_vl", {}, {}, {"deepstack_visual_indexes": []}),
        ("llava", {"text_config": None}, {}, {}),
        ("llava", {"vision_config": None}, {}, {}),
        ("llava", {"vision_config": {}}, {}, {}),
        ("llava_onevision", {"vision_config": None}, {}, {}),
        ("qwen2_vl", {"vision_config": {"hidden_size": 64}}, {}, {}),
    ],
)
def test_each_field_means_what_it_means_to_the_class(family, root, text, vision):
    check(varied(family, root, text, vision))


@pytest.mark.parametrize("name", QUANTISED)
def test_bytes_of_quantised_weights_are_those_of_the_matrices_that_the_file_names(name):
    config = fields(name)
    spec, method = ModelSpec.from_hf_config(config), config["quantization_config"]
    model = on_meta({k: v for k, v in config.items() if k != "quantization_config"})
    skipped = (method.get("modules_to_not_convert") or []) + (
        method.get("llm_int8_skip_modules") or []
    )
    total = 2 * model_parameters(spec)
    for path, module in model.named_modules():
        if type(module) is not torch.nn.Linear or path == "lm_head":
            continue
        if any(f".{part}." in f".{path}." for part in skipped):
            continue
        if method["quant_method"] == "gptq" and ".language_model." not in path:
            continue
        total += tensors(method, module.in_features, module.out_features)
        total -= 2 * module.weight.numel()
    assert weights_bytes(spec, 2) == total


def tensors(method, inputs, outputs):
    """Bytes of the tensors in place of a weight, by the shapes and widths of their buffers."""
    size, bits = method.get("group_size", 0), method.get("bits", 0)
    if method["quant_method"] == "awq":
        shapes = [(inputs, outputs // 8, 4), (inputs // size, outputs // 8, 4)]
        shapes += [(inputs // size, outputs, 2)]
    elif method["quant_method"] == "gptq":
        groups = -(-inputs // size)
        shapes = [(inputs // 32 * bits, outputs, 4), (groups, outputs // 32 * bits, 4)]
        shapes += [(groups, outputs, 2), (inputs, 1, 4)]
    elif method.get("load_in_8bit"):
        shapes = [(inputs, outputs, 1), (outputs, 1, 4)]
    else:
        blocks = inputs * outputs // 64
        shapes = [(inputs * outputs // 2, 1, 1), (16, 1, 4), (blocks, 1, 1)]
        shapes += [(-(-blocks // 256), 1, 4), (256, 1, 4), (1, 1, 4)]
    return sum(rows * columns * width for rows, columns, width in shapes)
