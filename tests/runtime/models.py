"""Tiny random models of LLaVA-1.5 and LLaVA-NeXT-Video, prompts for them, and a slow encoder."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
)

from aim_cost import ModelSpec
from aim_cost.models.images import image_grid
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.trace import TokenTrace
from tests.runtime.reference import Embedded, slow_passes
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN

Model = LlavaForConditionalGeneration | LlavaNextVideoForConditionalGeneration
Inputs = dict[str, Any]

IMAGE_TOKENS = 9  # LLaVA-1.5: 15 / 5 = 3 x 3 patches
CROP, FRAME_TOKENS = 30, 9  # NeXT-Video: 6 x 6 patches, pooled to 3 x 3
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


class Item(NamedTuple):
    """An image or a video: features [tokens, H], the places of each group, newlines in none."""

    features: Tensor
    groups: list[list[int]]
    in_order: bool = False


def _patches(model: Model, pixels: Tensor) -> Tensor:
    """Second but last hidden states [images, tokens, width], as the config selects them."""
    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    return hidden[:, model.config.vision_feature_select_strategy == "default" :]


def _rows(tokens: int, groups: int = 1) -> list[list[int]]:
    return [list(range(i * tokens, (i + 1) * tokens)) for i in range(groups)]


def slow_images(model: Model, inputs: Inputs) -> list[Item]:
    """The images of ``inputs`` in order."""
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return []
    if isinstance(model, LlavaForConditionalGeneration):
        features = model.model.multi_modal_projector(_patches(model, pixels))
        return [Item(image, _rows(len(image))) for image in features]
    if not isinstance(model, LlavaNextVideoForConditionalGeneration):
        features = model.model.get_image_features(pixels).pooler_output
        return [Item(image, _rows(len(image))) for image in features]
    spec = ModelSpec.from_hf_config(model.config.to_dict())
    sizes = [tuple(size) for size in inputs["image_sizes"].tolist()]
    packed = model.model.get_image_features(pixels, inputs["image_sizes"]).pooler_output
    return [
        Item(image, [[p for part in group for p in part] for group in grid.groups], in_order=True)
        for image, grid in zip(packed, (image_grid(spec, size) for size in sizes), strict=True)
    ]


def slow_videos(model: Model, inputs: Inputs) -> list[Item]:
    """The videos of ``inputs`` in order."""
    items = []
    for video in inputs.get("pixel_values_videos", ()):
        grid = _patches(model, video).unflatten(1, (6, 6))
        corners = [grid[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        pooled = torch.stack(corners).mean(dim=0).flatten(1, 2)
        features = model.model.multi_modal_projector(pooled)
        items.append(Item(features.flatten(0, 1), _rows(FRAME_TOKENS, len(video))))
    return items


def slow_prompts(
    model: Model, inputs: Inputs, rows: Sequence[TokenTrace], by: str
) -> list[Embedded]:
    """Each prompt of a batch without its padding, merged token by token.

    Args: rows, of each prompt the trace whose counts merging reaches.
    """
    queues = {IMAGE_TOKEN: slow_images(model, inputs), VIDEO_TOKEN: slow_videos(model, inputs)}
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    prompts = [
        _prompt(model, ids[real], queues, dict(_counts(trace)), by)
        for ids, real, trace in zip(inputs["input_ids"], mask, rows, strict=True)
    ]
    assert not any(queues.values())
    return prompts


def _counts(trace: TokenTrace) -> list[tuple[int, tuple[int, ...]]]:
    return [(counts[0], counts) for _, counts in trace.merges]


def _prompt(
    model: Model,
    ids: Tensor,
    queues: dict[int, list[Item]],
    counts: dict[int, tuple[int, ...]],
    by: str,
) -> Embedded:
    text, place = model.get_input_embeddings()(ids), 0
    embeds, visual, positions = [], [], []
    while place < len(ids):
        if int(ids[place]) not in queues:
            embeds.append(text[place])
            visual.append(False)
            positions.append(place)
            place += 1
            continue
        item = queues[int(ids[place])].pop(0)
        tokens, places = _merged(item, counts, by)
        embeds += tokens
        visual += [True] * len(tokens)
        positions += [place + p for p in places]
        place += len(item.features)
    return Embedded(torch.stack(embeds), torch.tensor(visual), torch.tensor(positions))


def _merged(
    item: Item, counts: dict[int, tuple[int, ...]], by: str
) -> tuple[list[Tensor], list[int]]:
    left: list[tuple[int, Tensor]] = []
    for group in item.groups:
        merged, places = slow_passes(item.features[group], counts[len(group)], by)
        left += [(group[p], token) for p, token in zip(places, merged, strict=True)]
    inside = {place for group in item.groups for place in group}
    left += [(p, token) for p, token in enumerate(item.features) if p not in inside]
    if item.in_order:
        left.sort(key=lambda pair: pair[0])
    return [token for _, token in left], [place for place, _ in left]


def slow_visual(items: Sequence[Item]) -> VisualInput:
    """The items of one prompt together, for ``Schedule.resolve_visual``."""
    found = Counter(len(group) for item in items for group in item.groups)
    merged = sum(tokens * number for tokens, number in found.items())
    newlines = sum(len(item.features) for item in items) - merged
    (tokens, groups), *others = sorted(found.items(), reverse=True) or [(0, 0)]
    return VisualInput(groups, tokens, newlines, tuple((n, t) for t, n in others))


def prompt_of(model: Model, parts: Sequence[int | str | tuple[int, int]], seed: int = 1) -> Inputs:
    """One prompt as the processor writes it.

    Args: parts in order: a number of text tokens; ``"image"``, one of LLaVA-1.5; height and width
        of an image of NeXT-Video; ``"video N"``, a video of N frames.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    ids: list[int] = []
    images, sizes, videos = [], [], []
    for part in parts:
        if isinstance(part, int):
            ids += torch.randint(0, 200, (part,), generator=generator).tolist()
        elif isinstance(part, tuple):
            spec = ModelSpec.from_hf_config(model.config.to_dict())
            grid = image_grid(spec, part)
            images.append(random(grid.crops, 3, CROP, CROP))
            sizes.append(part)
            ids += [IMAGE_TOKEN] * grid.tokens
        elif part == "image":
            images.append(random(3, 15, 15))
            full = getattr(model.config, "vision_feature_select_strategy", "") == "full"
            ids += [IMAGE_TOKEN] * (IMAGE_TOKENS + full)
        else:
            frames = int(part.split()[1])
            videos.append(random(frames, 3, CROP, CROP))
            ids += [VIDEO_TOKEN] * (frames * FRAME_TOKENS)
    inputs: Inputs = {"input_ids": torch.tensor([ids])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
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
    return batch | _pixels(images, sizes, videos)


WIDE, TALL, ODD = (50, 100), (100, 40), (40, 90)
"""Height and width of images that are cut into two tiles, or four."""

PROMPTS: dict[str, dict[str, list[tuple[int | str | tuple[int, int], ...]]]] = {
    "llava-1.5": {
        "an image": [(4, "image", 5)],
        "several images": [(4, "image", 2, "image", "image", 5)],
        "a batch": [(4, "image", 5), (2, "image", 7)],
        "padding": [(2, "image", 3), (6, "image", 5), ("image", 4)],
        "other numbers": [(2, "image", 3, "image", 4), (6, "image", 5), (9,)],
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

BUILDERS = {"llava-1.5": tiny_llava_15, "next-video": tiny_next_video}
NAMES = [(family, name) for family, batches in PROMPTS.items() for name in batches]


def named_inputs(model: Model, family: str, name: str) -> Inputs:
    """A batch of PROMPTS."""
    prompts = PROMPTS[family][name]
    return batch_of([prompt_of(model, parts, seed=i) for i, parts in enumerate(prompts)])
