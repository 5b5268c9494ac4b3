"""The geometry of images equals what transformers' own classes make of the same sizes."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next import modeling_llava_next as next_images
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_next_video import modeling_llava_next_video as next_video
from transformers.models.llava_next_video.processing_llava_next_video import (
    LlavaNextVideoProcessor,
)
from transformers.models.llava_onevision import modeling_llava_onevision as onevision
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.processing_llava_onevision import (
    LlavaOnevisionProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)

from aim_cost import load_model_spec
from aim_cost.models.images import image_grid, image_grids

ANYRES = {
    "llava-onevision-qwen2-7b": (transformers.LlavaOnevisionConfig(), onevision),
    "llava-v1.6-mistral-7b": (transformers.LlavaNextConfig(), next_images),
    "llava-next-video-7b": (transformers.LlavaNextVideoConfig(), next_video),
}
SPECS = {name: load_model_spec(name) for name in ANYRES}
QWEN = {
    "qwen2-vl-7b": {},
    "qwen2.5-vl-7b": {},
    # preprocessor_config.json of Qwen3-VL
    "qwen3-vl-8b": {"patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}},
}
_DRAW = random.Random(0)
SIZES = (
    *((1080, 1920), (1, 1), (1, 2000), (2000, 1), (384, 384), (2304, 2304), (336, 1008)),
    # drawn by ratio, so that small, large, wide and tall ones occur alike
    *((int(4 ** _DRAW.uniform(2, 6)), int(4 ** _DRAW.uniform(2, 6))) for _ in range(300)),
)


def marked(name, size):
    """The crops' features: (row of its tile, column of its tile); -1 for the base view."""
    config, module = ANYRES[name]
    side, pinpoints = config.vision_config.image_size, config.image_grid_pinpoints
    crops = module.image_size_to_num_patches(list(size), pinpoints, side)
    rows, columns = module.get_anyres_image_grid_shape(list(size), pinpoints, side)
    assert crops == 1 + rows * columns
    marks = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)
    tokens = (side // config.vision_config.patch_size) ** 2
    features = torch.cat([torch.full((1, 2), -1), marks]).double()
    return crops, features[:, None].expand(crops, tokens, 2)


def packed(name, size):
    """What the class packs of marked crops: features of the prompt's places; newlines are -9."""
    config, module = ANYRES[name]
    kind = next(k for k in (vars(module).values()) if getattr(k, "pack_image_features", None))
    crops, features = marked(name, size)
    arguments = {"image_newline": torch.full((2,), -9.0).double()}
    if module is not onevision:
        arguments["vision_feature_select_strategy"] = "default"
    given = [features], torch.tensor([size])
    (image,), _ = kind.pack_image_features(SimpleNamespace(config=config), *given, **arguments)
    return crops, image


@pytest.mark.parametrize("name", ANYRES)
def test_every_place_is_that_of_the_packed_image(name):
    for size in SIZES:
        crops, image = packed(name, size)
        grid = image_grid(SPECS[name], size)
        assert (grid.crops, grid.tokens) == (crops, len(image)), size
        (base,), *tiles = grid.groups
        assert (image[base] == -1).all(), size
        assert (image[list(grid.newlines)] == -9).all(), size
        places = [*base, *grid.newlines]
        for tile in tiles:
            indices = [index for part in tile for index in part]
            found = torch.floor(image[indices] + 0.5 + 1e-9)  # bilinear at the edges
            assert len(found.unique(dim=0)) == 1, size
            places += indices
        assert sorted(places) == list(range(grid.tokens)), size
        assert list(grid.group_tokens) == [sum(map(len, group)) for group in grid.groups], size
        order = [tuple(torch.floor(image[tile[0][0]] + 0.5 + 1e-9).tolist()) for tile in tiles]
        assert order == sorted(set(order)), size


def _processor(kind, **fields):
    """The processor's arithmetic without its tokenizer."""
    self = SimpleNamespace(**fields)
    self._get_unpadded_features = lambda *sizes: kind._get_unpadded_features(self, *sizes)
    return lambda *sizes: kind._get_number_of_features(self, *sizes)


def test_a_onevision_image_has_as_many_placeholders():
    (config, _), spec = ANYRES["llava-onevision-qwen2-7b"], SPECS["llava-onevision-qwen2-7b"]
    count = _processor(
        LlavaOnevisionProcessor,
        image_processor=config,
        num_image_tokens=729,
        vision_aspect_ratio=config.vision_aspect_ratio,
    )
    for size in SIZES:
        assert image_grid(spec, size).tokens == count(*size, 384, 384), size


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("llava-v1.6-mistral-7b", LlavaNextProcessor),
        ("llava-next-video-7b", LlavaNextVideoProcessor),
    ],
)
def test_a_next_image_has_as_many_placeholders(name, processor):
    (config, _), spec = ANYRES[name], SPECS[name]
    count = _processor(
        processor,
        image_processor=config,
        patch_size=14,
        num_additional_image_tokens=1,
    )
    for size in SIZES:
        assert image_grid(spec, size).tokens == count(*size, 336, 336) - 1, size  # no class token


def test_a_llava_15_image_has_as_many_placeholders():
    crop = {"height": 336, "width": 336}
    self = SimpleNamespace(
        image_processor=SimpleNamespace(crop_size=crop),
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        _merge_kwargs=lambda **_: {"images_kwargs": {}},
    )
    found = LlavaProcessor._get_num_multimodal_tokens(self, [list(size) for size in SIZES])
    own = [image_grid(load_model_spec("llava-1.5-7b"), size).tokens for size in SIZES]
    assert own == found["num_image_tokens"]


@pytest.mark.parametrize("name", QWEN)
def test_a_qwen_image_has_as_many_placeholders(name):
    spec, processor = load_model_spec(name), Qwen2VLImageProcessorPil(**QWEN[name])
    fits = [size for size in SIZES if max(size) <= 200 * min(size)]
    assert len(fits) > 200
    for size in fits:
        found = processor.get_number_of_image_patches(*size) // 4
        assert image_grid(spec, size).tokens == found, size


@pytest.mark.parametrize("sizes", [[(40, 100)], [(900, 300)], [(30, 50), (70, 20)]])
def test_the_onevision_processor_makes_these_crops(sizes):
    images = [Image.fromarray(np.zeros((*size, 3), np.uint8)) for size in sizes]
    found = LlavaOnevisionImageProcessorPil()([images], return_tensors="pt")
    grids = image_grids(SPECS["llava-onevision-qwen2-7b"], sizes)
    assert [len(image) for image in found["pixel_values"]] == [grid.crops for grid in grids]
    assert found["pixel_values"].shape[-2:] == grids[0].crop_size


def test_the_next_processor_makes_these_crops():
    sizes = [(40, 100), (900, 300), (1080, 1920)]
    images = [Image.fromarray(np.zeros((*size, 3), np.uint8)) for size in sizes]
    processor = LlavaNextImageProcessorPil(crop_size=336, size={"shortest_edge": 336})
    found = processor(images, do_pad=False)
    grids = image_grids(SPECS["llava-v1.6-mistral-7b"], sizes)
    assert [len(image) for image in found["pixel_values"]] == [grid.crops for grid in grids]
    assert found["pixel_values"][0].shape[-2:] == grids[0].crop_size
    assert [tuple(size) for size in found["image_sizes"]] == sizes
