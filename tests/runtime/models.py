"""Tiny random models of LLaVA-1.5, LLaVA-NeXT and -NeXT-Video; prompts for them, OneVision too."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
)

from aim_cost import ModelSpec
from aim_cost.models.images import image_grid
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN

Anyres = LlavaNextForConditionalGeneration | LlavaNextVideoForConditionalGeneration
Model = LlavaForConditionalGeneration | Anyres | LlavaOnevisionForConditionalGeneration
Inputs = dict[str, Any]

IMAGE_TOKENS = 9  # LLaVA-1.5: 15 / 5 = 3 x 3 patches
CROP, FRAME_TOKENS = 30, 9  # NeXT: 6 x 6 patches a crop; of a frame, NeXT-Video pools them to 3 x 3
PINPOINTS = [[30, 60], [60, 30], [60, 60]]


def llama_config(layers: int) -> LlamaConfig:
    """A tiny Llama with grouped heads."""
    return LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.15,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def _clip_config(image_size: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=5,
    )


def tiny_llava_15(
    layers: int = 6, seed: int = 0, select: str = "default"
) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=_clip_config(15),
        text_config=llama_config(layers),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy=select,
    )
    return LlavaForConditionalGeneration(config).eval()


def tiny_next(layers: int = 6, seed: int = 0) -> LlavaNextForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaNextConfig(
        vision_config=_clip_config(CROP),
        text_config=llama_config(layers),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextForConditionalGeneration(config).eval()


def tiny_next_video(layers: int = 6, seed: int = 0) -> LlavaNextVideoForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaNextVideoConfig(
        vision_config=_clip_config(CROP),
        text_config=llama_config(layers),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextVideoForConditionalGeneration(config).eval()


def prompt_of(model: Model, parts: Sequence[int | str | tuple[int, int]], seed: int = 1) -> Inputs:
    """One prompt as the processor writes it.

    Args: parts in order: a number of text tokens; ``"image"``, one of LLaVA-1.5; height and width
        of an image of the others; ``"video N"``, a video of N frames.
    """
    generator = torch.Generator().manual_seed(seed)
    onevision = isinstance(model, LlavaOnevisionForConditionalGeneration)
    crop, newlines = (model.config.vision_config.image_size, 1) if onevision else (CROP, 0)
    alone = sum(isinstance(part, tuple) for part in parts) == 1

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    ids: list[int] = []
    images, sizes, videos = [], [], []
    for part in parts:
        if isinstance(part, int):
            ids += torch.randint(0, 200, (part,), generator=generator).tolist()
        elif isinstance(part, tuple):
            spec = ModelSpec.from_hf_config(model.config.to_dict())
            grid = image_grid(spec, part, alone=alone)
            images.append(random(grid.crops, 3, crop, crop))
            sizes.append(part)
            ids += [IMAGE_TOKEN] * grid.tokens
        elif part == "image":
            images.append(random(3, 15, 15))
            full = getattr(model.config, "vision_feature_select_strategy", "") == "full"
            ids += [IMAGE_TOKEN] * (IMAGE_TOKENS + full)
        else:
            frames = int(part.split()[1])
            videos.append(random(frames, 3, crop, crop))
            ids += [VIDEO_TOKEN] * (frames * FRAME_TOKENS + newlines)
    inputs: Inputs = {"input_ids": torch.tensor([ids])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if onevision and images:
        inputs["batch_num_images"] = torch.tensor([len(images)])
    return inputs | _pixels(images, sizes, videos)


def _pixels(
    images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], videos: Sequence[Tensor]
) -> Inputs:
    """Pixels of a batch; images of fewer crops are padded, as the processor does."""
    found: Inputs = {}
    if images and sizes:
        most = max(map(len, images))
        found["image_sizes"] = torch.tensor(sizes)
        images = [functional.pad(x, (0, 0) * 3 + (0, most - len(x))) for x in images]
    if images:
        found["pixel_values"] = torch.stack(list(images))
    if videos:
        found["pixel_values_videos"] = torch.stack(list(videos))
    return found


def batch_of(prompts: Sequence[Inputs]) -> Inputs:
    """Prompts padded on the left, whatever each holds."""
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
    batch: Inputs = {
        name: torch.cat([functional.pad(p[name], (longest - p[name].shape[1], 0)) for p in prompts])
        for name in ("input_ids", "attention_mask")
    }
    images = [image for p in prompts for image in p.get("pixel_values", ())]
    sizes = [tuple(s) for p in prompts if "image_sizes" in p for s in p["image_sizes"].tolist()]
    videos = [video for p in prompts for video in p.get("pixel_values_videos", ())]
    numbers = [p["batch_num_images"] for p in prompts if "batch_num_images" in p]
    if numbers:
        batch["batch_num_images"] = torch.cat(numbers)
    return batch | _pixels(images, sizes, videos)


WIDE, TALL, ODD, SMALL = (50, 100), (100, 40), (40, 90), (20, 20)
"""Height and width of images that are cut into two tiles, or four; a small one is enlarged."""

PROMPTS: dict[str, dict[str, list[tuple[int | str | tuple[int, int], ...]]]] = {
    "llava-1.5": {
        "an image": [(4, "image", 5)],
        "several images": [(4, "image", 2, "image", "image", 5)],
        "a batch": [(4, "image", 5), (2, "image", 7)],
        "padding": [(2, "image", 3), (6, "image", 5), ("image", 4)],
        "other numbers": [(2, "image", 3, "image", 4), (6, "image", 5), (9,)],
    },
    "next": {
        "several images": [(4, WIDE, 3, TALL, ODD, 5)],
        "padding": [(4, TALL, 5), (9, WIDE, 3)],
        "other prompts": [(2, WIDE, 3, ODD, SMALL, 4), (TALL, 6), (2, ODD, WIDE, 3), (9,)],
    },
    "next-video": {
        "a video": [(4, "video 3", 5)],
        "several videos": [(4, "video 2", "video 2", 5), (1, "video 2", 3, "video 2", 5)],
        "an image": [(4, WIDE, 5)],
        "several images": [(4, WIDE, 3, TALL, ODD, 5)],
        "images and a video": [(4, WIDE, 3, "video 3", TALL, 5)],
        "padding": [(4, "video 3", 5), (9, "video 3", 3)],
        "other prompts": [(2, "video 2", 3, ODD, 4), (6, "video 2", 5), (2, TALL, WIDE, 3), (9,)],
    },
}
"""Batches of prompts of each family, as ``prompt_of`` reads them."""

BUILDERS = {"llava-1.5": tiny_llava_15, "next": tiny_next, "next-video": tiny_next_video}
NAMES = [(family, name) for family, batches in PROMPTS.items() for name in batches]


def named_inputs(model: Model, family: str, name: str) -> Inputs:
    """A batch of PROMPTS."""
    prompts = PROMPTS[family][name]
    return batch_of([prompt_of(model, parts, seed=i) for i, parts in enumerate(prompts)])
