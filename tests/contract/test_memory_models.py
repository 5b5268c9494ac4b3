"""Predicted peak memory of the other model kinds against the tensors that are really alive.

The real vision towers, two layers deep, before a narrow LLM: enough for each set that can be the
largest.
"""

import copy

import pytest
import torch
import transformers

from aim_cost import Execution, ModelSpec, Schedule, Workload, preset_config
from aim_cost.case.memory import prefill_memory
from aim_runtime.measurement.memory import track_peak_bytes
from aim_runtime.seams import tower_keeps_hidden_states

CLASSES = {
    "llava-1.5-7b": "Llava",
    "llava-v1.6-mistral-7b": "LlavaNext",
    "llava-next-video-7b": "LlavaNextVideo",
    "llava-onevision-qwen2-7b": "LlavaOnevision",
    "qwen2-vl-7b": "Qwen2VL",
    "qwen2.5-vl-7b": "Qwen2_5_VL",
    "qwen3-vl-8b": "Qwen3VL",
}
_IMAGE, _VIDEO = 5, 6


def small_config(name, hidden):
    fields = {k: v for k, v in preset_config(name).items() if k != "aim_cost"}
    text, vision = fields["text_config"], fields["vision_config"]
    heads = {"num_attention_heads": hidden // 128, "num_key_value_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    text |= (
        {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2}
        | heads
        | ends
    )
    text["vocab_size"] = 1000
    if name.startswith("qwen"):
        vision["hidden_size" if "qwen2-" in name else "out_hidden_size"] = hidden
        vision["depth"] = 2
        if "fullatt_block_indexes" in vision:
            vision["fullatt_block_indexes"] = [1]
        if "deepstack_visual_indexes" in vision:
            vision["deepstack_visual_indexes"] = [0]
        return fields | {"image_token_id": _IMAGE, "video_token_id": _VIDEO}
    vision["num_hidden_layers"] = 2
    return fields | {"image_token_index": _IMAGE, "video_token_index": _VIDEO}


def image_inputs(inputs, spec, workload):
    """Sizes of the images into ``inputs``; their pixels."""
    grids = workload.image_grids(spec)
    if spec.name.startswith("qwen"):
        patch = spec.vision.patch_size
        sides = [[side // patch for side in grid.crop_size] for grid in grids]
        inputs["image_grid_thw"] = torch.tensor([[1, *pair] for pair in sides])
        prompt, start = inputs["input_ids"], 2
        prompt[:] = 1
        for grid in grids:  # text between images
            prompt[:, start + 1 : start + 1 + grid.tokens] = _IMAGE
            start += 1 + grid.tokens
        inputs["mm_token_type_ids"] = (prompt == _IMAGE).int()
        views = workload.views(spec)
        rows = [torch.randn(n * v.patches, v.pixels // v.patches) for v, n in views]
        return {"pixel_values": torch.cat(rows).bfloat16()}
    inputs["image_sizes"] = torch.tensor(workload.images)
    if spec.model_type == "llava_onevision":
        inputs["batch_num_images"] = torch.tensor([len(grids)])
    crops = sum(grid.crops for grid in grids)
    return {"pixel_values": torch.randn(crops, 3, *grids[0].crop_size).bfloat16()}


def inputs_of(name, spec, workload, visual):
    prompt = torch.ones(workload.batch, visual + workload.text_tokens, dtype=torch.long)
    prompt[:, 3 : 3 + visual] = _IMAGE if workload.frames is None else _VIDEO
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    if workload.images is not None:
        return inputs, image_inputs(inputs, spec, workload)
    if "qwen" in name:
        vision = workload.sized(spec).vision
        groups = workload.visual_input(spec).groups
        patch = vision.patch_size
        grid = torch.tensor([[groups, *(side // patch for side in vision.frame_size)]])
        rows = torch.randn(groups * vision.patches, vision.pixels // vision.patches)
        inputs |= {"video_grid_thw": grid, "mm_token_type_ids": 2 * (prompt == _VIDEO).int()}
        return inputs, {"pixel_values_videos": rows.bfloat16()}
    if workload.frames is None:
        return inputs, {"pixel_values": torch.randn(workload.batch, 3, 336, 336).bfloat16()}
    shape = (workload.batch, workload.frames, 3, 336, 336)
    return inputs, {"pixel_values_videos": torch.randn(shape).bfloat16()}


@pytest.mark.parametrize(
    ("largest", "hidden", "text_tokens"), [("vision", 512, 20), ("llm", 1536, 1000)]
)
@pytest.mark.parametrize(
    ("name", "visual"),
    [
        ("llava-1.5-7b", {"image_tokens": 576}),
        ("llava-next-video-7b", {"frames": 1}),
        ("qwen2-vl-7b", {"frames": 3}),
        ("qwen2.5-vl-7b", {"frames": 2, "frame_size": (140, 252)}),
        ("qwen3-vl-8b", {"frames": 2, "frame_size": (160, 288)}),
        ("qwen3-vl-8b", {"images": ((300, 200),)}),
        ("llava-v1.6-mistral-7b", {"images": ((200, 300),)}),
        ("llava-onevision-qwen2-7b", {"images": ((700, 300), (300, 200))}),
        ("llava-onevision-qwen2-7b", {"images": ((500, 300),)}),
        ("qwen2-vl-7b", {"images": ((200, 300), (100, 100))}),
    ],
)
def test_the_peak_is_that_of_the_tensors(name, visual, largest, hidden, text_tokens):
    fields = small_config(name, hidden)
    spec = ModelSpec.from_hf_config(fields, name=name)
    workload = Workload(text_tokens, **visual)
    config = getattr(transformers, CLASSES[name] + "Config")(**copy.deepcopy(fields))
    kind = getattr(transformers, CLASSES[name] + "ForConditionalGeneration")
    model = kind(config).to(torch.bfloat16).eval()
    trace = Schedule().resolve(spec, workload)
    inputs, pixels = inputs_of(name, spec, workload, trace.visual_tokens)
    with torch.inference_mode():
        tracked = track_peak_bytes(
            lambda: model(**inputs, **pixels, use_cache=True, logits_to_keep=1).logits
        )
    execution = Execution(keeps_tower_states=tower_keeps_hidden_states(model))
    memory = prefill_memory(spec, workload, trace, execution)
    # the tracker does not see what was there before: weights and pixels
    (before,) = pixels.values()
    activations = memory.peak_bytes - memory.weights_bytes - before.nbytes
    larger = memory.vision_activation_bytes > memory.llm_activation_bytes
    assert larger == (largest == "vision")
    assert activations == pytest.approx(tracked.peak_bytes, rel=0.005)


@pytest.mark.parametrize(
    ("text", "vision", "text_tokens", "hidden"),
    [
        ({"model_type": "mistral", "sliding_window": 500}, {}, 1000, 1536),  # the MLP holds most
        ({"model_type": "mistral", "sliding_window": 500}, {}, 3000, 256),  # attention and its mask
        ({"model_type": "mistral", "sliding_window": 5000}, {}, 1000, 1536),
        ({}, {"model_type": "siglip_vision_model"}, 20, 256),  # with its head
        ({}, {"model_type": "siglip_vision_model", "hidden_act": "quick_gelu"}, 20, 256),
        ({}, {"hidden_act": "gelu"}, 20, 256),
    ],
)
def test_the_peak_of_other_parts_is_that_of_the_tensors(text, vision, text_tokens, hidden):
    fields = small_config("llava-1.5-7b", hidden) | {"vision_feature_select_strategy": "full"}
    fields["text_config"] |= text
    fields["vision_config"] |= vision
    spec = ModelSpec.from_hf_config(fields, name="llava-1.5-7b")
    workload = Workload(text_tokens, image_tokens=spec.image_tokens)
    config = transformers.LlavaConfig(**copy.deepcopy(fields))
    model = transformers.LlavaForConditionalGeneration(config).to(torch.bfloat16).eval()
    trace = Schedule().resolve(spec, workload)
    inputs, pixels = inputs_of(spec.name, spec, workload, trace.visual_tokens)
    with torch.inference_mode():
        tracked = track_peak_bytes(
            lambda: model(**inputs, **pixels, use_cache=True, logits_to_keep=1).logits
        )
    execution = Execution(keeps_tower_states=tower_keeps_hidden_states(model))
    memory = prefill_memory(spec, workload, trace, execution)
    activations = memory.peak_bytes - memory.weights_bytes - pixels["pixel_values"].nbytes
    assert activations == pytest.approx(tracked.peak_bytes, rel=0.005)
