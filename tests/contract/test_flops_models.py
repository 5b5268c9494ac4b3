"""FLOPs and parameters of the other model kinds equal those of the real classes.

The classes run on the meta device: shapes without data. The lengths of attention segments are data,
so the small tensors that hold them stay on the CPU.
"""

import functools

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_window_index,
)

from aim_cost import (
    Schedule,
    Workload,
    estimate,
    load_hardware,
    load_model_spec,
    model_parameters,
    preset_config,
)
from aim_cost.ops.kind import EncoderAttention

H100 = load_hardware("h100-sxm")
CLASSES = {
    "llava-1.5-7b": "Llava",
    "llava-v1.6-mistral-7b": "LlavaNext",
    "llava-next-video-7b": "LlavaNextVideo",
    "qwen2-vl-7b": "Qwen2VL",
    "qwen2.5-vl-7b": "Qwen2_5_VL",
    "qwen3-vl-2b": "Qwen3VL",
    "qwen3-vl-4b": "Qwen3VL",
    "qwen3-vl-8b": "Qwen3VL",
    "qwen3-vl-32b": "Qwen3VL",
}
QWEN = ("qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-4b", "qwen3-vl-8b")
CLIP = ("llava-1.5-7b", "llava-next-video-7b")


@functools.cache
def on_meta(name):
    fields = {k: v for k, v in preset_config(name).items() if k != "aim_cost"}
    config = getattr(transformers, CLASSES[name] + "Config")(**fields)
    kind = getattr(transformers, CLASSES[name] + "ForConditionalGeneration")
    with torch.device("meta"):
        return kind(config).to(torch.bfloat16).eval()


def empty(*shape):
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def counted(forward):
    """FLOPs of ``forward()``, and what it returns.

    The angles of the positions are left out: older transformers multiply for them, newer do not.
    """
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        found = forward()
    modules = counter.get_flop_counts()
    angles = sum(sum(modules[name].values()) for name in modules if name.endswith("rotary_emb"))
    return counter.get_total_flops() - angles, found


def known_of(vision, grid, modality):
    """Positions, the order of windows and learned positions, made beforehand, as data are."""
    rows = int(grid.prod(1).sum())
    known = {"position_ids": torch.zeros(rows, 2, dtype=torch.long, device="meta")}
    if hasattr(vision, "window_size"):
        sizes = (vision.spatial_merge_size, vision.window_size, vision.patch_size)
        index, lengths = get_vision_window_index(grid, *sizes)
        known |= {"window_index": index.to("meta"), "cu_window_seqlens": lengths}
    if hasattr(vision, "num_position_embeddings"):
        side = int(vision.num_position_embeddings**0.5)
        found = get_vision_interpolation_indices_and_weights(
            grid, side, "bilinear", True, vision.spatial_merge_size
        )
        names = ("interp_indices", "interp_weights")
        known |= {name: x.to("meta") for name, x in zip(names, found, strict=True)}
    return {f"{modality}_{name}": value for name, value in known.items()}


def qwen_features(model, workload):
    """The visual tokens of a video; the positions and the order of the windows beforehand."""
    vision = model.config.vision_config
    height, width = (side // vision.patch_size for side in workload.frame_size)
    times = -(-workload.frames // vision.temporal_patch_size)
    grid = torch.tensor([[times, height, width]] * workload.batch)
    rows = int(grid.prod(1).sum())
    pixels = empty(rows, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
    known = known_of(vision, grid, "video")
    return model.model.get_video_features(pixels, grid, **known).pooler_output


def prompt_flops(model, workload, visual):
    text = model.config.text_config
    embeds = empty(workload.batch, visual + workload.text_tokens, text.hidden_size)
    return counted(lambda: model(inputs_embeds=embeds, logits_to_keep=1, use_cache=True))[0]


def predicted(name, workload):
    return estimate(load_model_spec(name), workload, Schedule(), H100)


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_are_those_of_the_class(name):
    own = sum(p.numel() for p in on_meta(name).parameters())
    assert own == model_parameters(load_model_spec(name))


@pytest.mark.parametrize("name", QWEN)
@pytest.mark.parametrize(
    ("frames", "size", "batch"),
    [
        (2, (8, 8), 1),  # in tokens
        (1, (1, 1), 1),
        (3, (7, 5), 2),  # windows cut off at both edges, the last frame repeated
        (2, (5, 17), 1),
        (2, (16, 16), 1),
    ],
)
def test_a_qwen_prefill_is_exact(name, frames, size, batch):
    unit = load_model_spec(name).vision.unit
    sides = tuple(side * unit for side in size)
    model, workload = on_meta(name), Workload(50, frames=frames, batch=batch, frame_size=sides)
    result = predicted(name, workload)
    flops, features = counted(lambda: qwen_features(model, workload))
    assert [len(video) for video in features] == [result.trace.visual_tokens] * batch
    assert flops == result.phase("vision").flops
    assert prompt_flops(model, workload, len(features[0])) == result.phase("llm").flops


@pytest.mark.parametrize("name", QWEN)
def test_a_qwen_merger_is_counted_on_its_own(name):
    vision, predict = on_meta(name).model.visual, predicted(name, Workload(9, frames=2))
    phase, tower = predict.phase, load_model_spec(name).vision
    patches = empty(tower.patches, tower.hidden_size)
    mergers = [vision.merger, *getattr(vision, "deepstack_merger_list", ())]
    assert len(mergers) == 1 + 3 * name.startswith("qwen3")
    flops = sum(counted(functools.partial(merger, patches))[0] for merger in mergers)
    assert flops == phase("vision.projector").flops
    assert phase("vision.projector").flops + phase("vision.tower").flops == phase("vision").flops


@pytest.mark.parametrize("name", QWEN)
def test_a_qwen_attention_runs_once_a_segment(name, monkeypatch):
    kernel, calls = torch.nn.functional.scaled_dot_product_attention, []

    def listed(query, *args, **kwargs):
        calls.append(query.shape[2])
        return kernel(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", listed)
    unit = load_model_spec(name).vision.unit
    workload = Workload(9, frames=3, frame_size=(7 * unit, 10 * unit))
    counted(lambda: qwen_features(on_meta(name), workload))
    tower = predicted(name, workload).graph.phase("vision.tower")
    own = [op.kind.tokens for op in tower if isinstance(op.kind, EncoderAttention)]
    assert sorted(calls) == sorted(own)


def test_a_qwen_image_of_any_size_is_one_segment():
    name, model = "qwen2-vl-7b", on_meta("qwen2-vl-7b")
    result = predicted(name, Workload(9, image_tokens=144))
    grid = torch.tensor([[1, 24, 24]])
    positions = torch.zeros(576, 2, dtype=torch.long, device="meta")
    flops, found = counted(
        lambda: (
            model.model.get_image_features(
                empty(576, 1176), grid, image_position_ids=positions
            ).pooler_output
        )
    )
    assert len(found[0]) == result.trace.visual_tokens == 144
    assert flops == result.phase("vision").flops


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (3, 2), (32, 1)])
def test_a_llava_next_video_prefill_is_exact(frames, batch):
    name = "llava-next-video-7b"
    model, workload = on_meta(name), Workload(50, frames=frames, batch=batch)
    result = predicted(name, workload)
    pixels = empty(batch, frames, 3, 336, 336)
    flops, features = counted(lambda: model.model.get_video_features(pixels).pooler_output)
    # one tensor, or of each video its frames apart
    tokens = sum(video.shape[:-1].numel() for video in features)
    assert tokens == batch * result.trace.visual_tokens == batch * 144 * frames
    assert flops == result.phase("vision").flops
    assert prompt_flops(model, workload, 144 * frames) == result.phase("llm").flops


@pytest.mark.parametrize(("images", "batch"), [(1, 1), (2, 3)])
def test_a_llava_15_prefill_is_exact(images, batch):
    name, workload = "llava-1.5-7b", Workload(50, image_tokens=576 * images, batch=batch)
    model, result = on_meta(name), predicted(name, workload)
    pixels = empty(batch * images, 3, 336, 336)
    flops, features = counted(lambda: model.model.get_image_features(pixels).pooler_output)
    assert sum(map(len, features)) == batch * result.trace.visual_tokens
    assert flops == result.phase("vision").flops
    assert prompt_flops(model, workload, 576 * images) == result.phase("llm").flops


@pytest.mark.parametrize("name", CLIP)
def test_clip_runs_every_layer_on_the_class_token_too(name):
    tower, rows = on_meta(name).model.vision_tower, []
    hooks = [
        layer.register_forward_hook(lambda _, given, out: rows.append(tuple(out.shape)))
        for layer in tower.encoder.layers
    ]
    flops, _ = counted(lambda: tower(empty(2, 3, 336, 336)))
    for hook in hooks:
        hook.remove()
    vision = load_model_spec(name).vision
    assert rows == [(2, vision.tokens, 1024)] * vision.num_hidden_layers
    workload = Workload(9, frames=2) if "video" in name else Workload(9, image_tokens=1152)
    assert flops == predicted(name, workload).phase("vision.tower").flops
