"""FLOPs of images of any size equal those of the real classes, counted on the meta device."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aim_cost import Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_runtime import load
from tests.contract.test_flops_models import counted, empty, known_of, on_meta

H100 = load_hardware("h100-sxm")
ONEVISION = "llava-onevision-qwen2-0.5b"
LLAVA = (ONEVISION, "llava-1.5-7b", "llava-v1.6-mistral-7b", "llava-next-video-7b")
QWEN = ("qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-8b")


def model_of(name):
    if name == ONEVISION:
        return load(name, device="meta", random_weights=True).model
    return on_meta(name)


def llava_features(model, workload, grids):
    """Crops of all prompts, each image padded to as many as the largest, as processors do."""
    most = max(grid.crops for grid in grids)
    pixels = empty(workload.batch * len(grids), most, 3, *grids[0].crop_size)
    if model.config.model_type == "llava":
        return model.model.get_image_features(pixels.flatten(0, 1)).pooler_output
    sizes = torch.tensor(workload.images * workload.batch)
    counts = {}
    if model.config.model_type == "llava_onevision":
        counts["batch_num_images"] = torch.tensor([len(grids)] * workload.batch)
    return model.model.get_image_features(pixels, sizes, **counts).pooler_output


def qwen_features(model, workload, grids):
    vision = model.config.vision_config
    sides = [[side // vision.patch_size for side in grid.crop_size] for grid in grids]
    grid = torch.tensor([[1, *pair] for pair in sides] * workload.batch)
    rows = int(grid.prod(1).sum())
    known = known_of(vision, grid, "image")
    pixels = empty(rows, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
    return model.model.get_image_features(pixels, grid, **known).pooler_output


WIDE, THIN, SMALL = (1080, 1920), (50, 640), (130, 200)


@pytest.mark.parametrize(
    ("name", "images", "batch"),
    [
        *((name, (WIDE,), 1) for name in LLAVA),
        *((name, (THIN,), 2) for name in LLAVA),
        *((name, (WIDE, SMALL), 2) for name in LLAVA),
        *((name, (THIN,), 1) for name in QWEN),
        *((name, (SMALL, (200, 80)), 2) for name in QWEN),
    ],
)
def test_the_vision_of_images_is_exact(name, images, batch):
    model, spec = model_of(name), load_model_spec(name)
    workload = Workload(50, images=images, batch=batch)
    result, grids = estimate(spec, workload, Schedule(), H100), workload.image_grids(spec)
    features = qwen_features if name in QWEN else llava_features
    flops, found = counted(lambda: features(model, workload, grids))
    assert [len(image) for image in found] == [grid.tokens for grid in grids] * batch
    assert flops == result.phase("vision").flops
    visual = sum(grid.tokens for grid in grids)
    assert visual == result.trace.visual_tokens


@pytest.mark.parametrize("name", [*LLAVA, *QWEN])
def test_the_llm_is_exact(name):
    model, spec = model_of(name), load_model_spec(name)
    workload = Workload(50, images=(SMALL,))
    result = estimate(spec, workload, Schedule(), H100)
    counter = FlopCounterMode(display=False)
    embeds = empty(1, result.trace.prompt_tokens, spec.text.hidden_size)
    with torch.inference_mode(), counter:
        model(inputs_embeds=embeds, logits_to_keep=1, use_cache=True)
    # transformers 5.17 multiplies for the angles of the positions, newer ones do not
    modules = counter.get_flop_counts()
    angles = sum(sum(modules[name].values()) for name in modules if name.endswith("rotary_emb"))
    assert counter.get_total_flops() - angles == result.phase("llm").flops


@pytest.mark.parametrize("name", [ONEVISION, "llava-next-video-7b"])
def test_each_crop_is_encoded_once(name):
    model, spec = model_of(name), load_model_spec(name)
    workload, seen = Workload(9, images=((1080, 1920),)), []
    hook = model.model.vision_tower.register_forward_pre_hook(
        lambda _, given: seen.append(len(given[0]))
    )
    counted(lambda: llava_features(model, workload, workload.image_grids(spec)))
    hook.remove()
    assert seen == [sum(number for _, number in workload.views(spec))]
