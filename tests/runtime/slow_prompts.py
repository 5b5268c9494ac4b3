"""A slow way from pixels to what enters the LLM: encoded, then merged or selected item by item."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import (
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

import tests.runtime.slow_attention
import tests.runtime.slow_density
import tests.runtime.slow_frames
import tests.runtime.slow_similarity  # noqa: F401  # they register their references
from aim_cost import ModelSpec
from aim_cost.models.images import image_grid
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.trace import TokenTrace
from aim_cost.schedules.vision_merge import VisionMerge
from tests.runtime.models import FRAME_TOKENS, Inputs, Model
from tests.runtime.qwen import features_alone
from tests.runtime.reference import Embedded, slow_passes
from tests.runtime.slow_blocks import slow_blocks
from tests.runtime.slow_selections import SLOW_SELECTIONS, SlowItem, SlowTower
from tests.runtime.slow_tower import slow_tower as slow_merging_tower
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN

QWEN = (Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration)


class Unfilled(Exception):
    """Images and videos do not fill the placeholders of a batch, each those of one prompt."""


class Item(NamedTuple):
    """An image or a video: features [tokens, H], the places of each group, newlines in none.

    ``views``: [groups, 3, height, width], the pixels of its frames or crops; ``video``: whether it
    is one. ``grid``: times, rows and columns of Qwen's patches [patches, values], which are its
    views.
    """

    features: Tensor
    groups: list[list[int]]
    in_order: bool = False
    views: Tensor | None = None
    video: bool = False
    grid: tuple[int, int, int] | None = None


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
    if isinstance(model, QWEN):
        return _of_any_size(model, inputs, "image")
    if isinstance(model, LlavaForConditionalGeneration):
        features = model.model.multi_modal_projector(_patches(model, pixels))
        return [
            Item(image, _rows(len(image)), views=view[None])
            for image, view in zip(features, pixels, strict=True)
        ]
    if inputs.get("image_sizes") is None:  # a model of one's own, whose images have one size
        features = model.model.get_image_features(pixels).pooler_output
        return [Item(image, _rows(len(image))) for image in features]
    spec = ModelSpec.from_hf_config(model.config.to_dict())
    sizes = [tuple(size) for size in inputs["image_sizes"].tolist()]
    numbers = inputs.get("batch_num_images")
    call = {} if numbers is None else {"batch_num_images": numbers}
    packed = model.model.get_image_features(pixels, inputs["image_sizes"], **call).pooler_output
    alone = [True] * len(sizes)
    if numbers is not None:
        alone = [number == 1 for number in numbers.tolist() for _ in range(number)]
    grids = [image_grid(spec, size, alone=one) for size, one in zip(sizes, alone, strict=True)]
    return [
        Item(
            image,
            [[p for part in group for p in part] for group in grid.groups],
            in_order=grid.tile_rows > 0,
            views=crops[: len(grid.groups)],
        )
        for image, crops, grid in zip(packed, pixels, grids, strict=True)
    ]


def slow_videos(model: Model, inputs: Inputs) -> list[Item]:
    """The videos of ``inputs`` in order."""
    if isinstance(model, QWEN):
        return _of_any_size(model, inputs, "video")
    items = []
    for video in inputs.get("pixel_values_videos", ()):
        rows = _rows(FRAME_TOKENS, len(video))
        if isinstance(model, LlavaOnevisionForConditionalGeneration):
            features = model.model.get_video_features(video[None]).pooler_output.flatten(0, -2)
            newline = model.model.image_newline[None]
            features = torch.cat([features[: len(video) * FRAME_TOKENS], newline])
            items.append(Item(features, rows, views=video, video=True))
            continue
        grid = _patches(model, video).unflatten(1, (6, 6))
        corners = [grid[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        pooled = torch.stack(corners).mean(dim=0).flatten(1, 2)
        features = model.model.multi_modal_projector(pooled)
        items.append(Item(features.flatten(0, 1), rows, views=video, video=True))
    return items


def _of_any_size(model: Model, inputs: Inputs, modality: str) -> list[Item]:
    """The images or videos of Qwen, of which each temporal patch is a group."""
    sizes = inputs.get(f"{modality}_grid_thw", torch.empty(0, 3, dtype=torch.int64)).tolist()
    pixels = inputs.get("pixel_values" if modality == "image" else "pixel_values_videos")
    items = []
    for (times, rows, columns), features in zip(
        sizes, features_alone(model, inputs, modality), strict=True
    ):
        views, pixels = pixels.tensor_split([times * rows * columns])
        grid, groups = (times, rows, columns), _rows(rows * columns // 4, times)
        items.append(Item(features, groups, views=views, video=modality == "video", grid=grid))
    return items


@contextmanager
def merging_tower(model: Model, merge: VisionMerge | None) -> Iterator[None]:
    """Encode with the tower of ``slow_tower``, where tokens are merged in it."""
    if merge is None:
        yield
        return
    tower = model.model.vision_tower
    layers = merge.merging_layers(len(tower.encoder.layers))
    proportional = merge.attention == "proportional"

    def forward(pixel_values: Tensor, **options: object) -> BaseModelOutputWithPooling:
        found = slow_merging_tower(tower, pixel_values, merge.remove, layers, proportional)[0]
        return BaseModelOutputWithPooling(hidden_states=(found.float(),))

    tower.forward = forward
    try:
        yield
    finally:
        del tower.forward


Reduce = Callable[[Item, Tensor], tuple[list[Tensor], list[int]]]
"""From an item and the text [T, H] around it: the tokens left, and where in it each stood."""


Placed = tuple[Item, list[int]]
"""An image or a video, and the places of its tokens in a prompt without its padding."""


def slow_rows(model: Model, inputs: Inputs) -> list[list[Placed]]:
    """The images and videos of each prompt, in the order of their first tokens.

    Raises: Unfilled.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids).bool() if mask is None else mask.bool()
    if not torch.equal(mask.cummax(dim=1).values, mask):
        raise Unfilled("padding elsewhere than on the left")
    rows: list[list[Placed]] = [[] for _ in ids]
    found = [(IMAGE_TOKEN, slow_images(model, inputs))]
    if not isinstance(model, LlavaForConditionalGeneration):  # to which the other is a word
        found.append((VIDEO_TOKEN, slow_videos(model, inputs)))
    for token, items in found:
        if bool((ids[~mask] == token).any()):
            raise Unfilled("placeholders that are masked")
        for row, own, real in zip(rows, ids, mask, strict=True):
            places = (own[real] == token).nonzero()[:, 0].tolist()
            while places:
                count = len(items[0].features) if items else 0
                if not 0 < count <= len(places):
                    raise Unfilled("placeholders without pixels, or an image in two prompts")
                row.append((items.pop(0), places[:count]))
                places = places[count:]
        if items:
            raise Unfilled("pixels without placeholders")
    return [sorted(row, key=lambda placed: placed[1]) for row in rows]


def slow_prompts(
    model: Model, inputs: Inputs, rows: Sequence[Sequence[Placed]], reduce: Sequence[Reduce]
) -> list[Embedded]:
    """Each prompt of a batch without its padding, reduced item by item: one ``reduce`` a row.

    Args: rows, as ``slow_rows`` finds them.
    Raises: Unfilled for an image or a video that gets shorter, with other tokens between its own.
    """
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    return [
        _prompt(model, ids[real], placed, own)
        for ids, real, placed, own in zip(
            inputs["input_ids"], mask.bool(), rows, reduce, strict=True
        )
    ]


def _prompt(model: Model, ids: Tensor, placed: Sequence[Placed], reduce: Reduce) -> Embedded:
    text = model.get_input_embeddings()(ids)
    visual = {place for _, places in placed for place in places}
    around = text[[place not in visual for place in range(len(ids))]]
    left: list[tuple[int, int, Tensor, bool]] = []  # where it is written, and counted
    for item, places in placed:
        tokens, kept = reduce(item, around)
        if len(tokens) < len(places) and places[-1] - places[0] >= len(places):
            raise Unfilled("shortened, with other tokens inside")
        for number, (token, place) in enumerate(zip(tokens, kept, strict=True)):
            left.append((places[number], places[place], token, True))
    left += [(p, p, x, False) for p, x in enumerate(text) if p not in visual]
    left.sort(key=lambda token: token[0])
    _, positions, embeds, marks = zip(*left, strict=True)
    return Embedded(torch.stack(embeds), torch.tensor(marks), torch.tensor(positions))


def merging(trace: TokenTrace) -> Reduce:
    """Merge the groups of an item token by token, down to the counts of ``trace``."""
    counts = {tokens[0]: tokens for _, tokens in trace.merges}

    def reduce(item: Item, text: Tensor) -> tuple[list[Tensor], list[int]]:
        left: list[tuple[int, Tensor]] = []
        for group in item.groups:
            passes = counts[len(group)]
            merged, places = slow_passes(item.features[group], passes, trace.merged_by)
            left += [(group[p], token) for p, token in zip(places, merged, strict=True)]
        return _with_newlines(item, left)

    return reduce


def selecting(model: Model, trace: TokenTrace, decide: Callable[[float], None]) -> Reduce:
    """Select in one item after the other, what ``trace`` ranks of each."""
    ranked = list(trace.selected)

    def reduce(item: Item, text: Tensor) -> tuple[list[Tensor], list[int]]:
        groups = sorted(item.groups, key=len, reverse=True)
        left: list[tuple[int, Tensor]] = []
        while groups:
            part = ranked.pop(0)
            number = part.sets * part.frames if part.frames > 1 or part.sets > 1 else 1
            if part.sets == 1 and part.tokens > len(groups[0]):
                number = len(groups)
            here, groups = groups[:number], groups[number:]
            places = [place for group in here for place in group]
            slow = SlowItem(
                item.features[places],
                len(here),
                part.sets,
                part.kept,
                lambda: slow_tower(model, item),
                text,
                decide,
            )
            if part.chooses:
                kept, tokens = SLOW_SELECTIONS[trace.selected_by](slow)
            else:
                kept = list(range(len(places)))[: part.sets * part.kept]
                tokens = slow.features[kept]
            left += [(places[p], token) for p, token in zip(kept, tokens, strict=True)]
        return _with_newlines(item, left)

    return reduce


def slow_tower(model: Model, item: Item) -> SlowTower:
    """Queries and keys of the tower's layer whose output is read, from what enters it."""
    if item.grid is not None:
        newer = isinstance(model, Qwen2_5_VLForConditionalGeneration)
        return slow_blocks(model, "qwen2.5-vl" if newer else "qwen2-vl", item.views, item.grid)
    tower, number = model.model.vision_tower, model.config.vision_feature_layer
    states = tower(item.views, output_hidden_states=True).hidden_states
    layer = tower.encoder.layers[number]  # the output of layer -2 is hidden state -2
    normed = layer.layer_norm1(states[number - 1])
    heads = layer.self_attn.num_heads
    query, key = (
        project(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
        for project in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    first = int(model.config.vision_feature_select_strategy == "default")

    def pooled(x: Tensor) -> Tensor:
        x = x[:, first:]
        if not item.video:
            return x
        if isinstance(model, LlavaOnevisionForConditionalGeneration):
            return model.model.apply_pooling(x)
        grid = x.unflatten(1, (6, 6))
        corners = [grid[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return torch.stack(corners).mean(dim=0).flatten(1, 2)

    class_tokens = int(model.config.vision_config.model_type == "clip_vision_model")
    return SlowTower(query, key, class_tokens, pooled)


def _with_newlines(item: Item, left: list[tuple[int, Tensor]]) -> tuple[list[Tensor], list[int]]:
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
    several = tuple(_sizes(item) for item in items) if len(items) > 1 else ()
    return VisualInput(groups, tokens, newlines, tuple((n, t) for t, n in others), several)


def _sizes(item: Item) -> tuple[tuple[int, int], ...]:
    found = Counter(map(len, item.groups))
    return tuple((found[tokens], tokens) for tokens in sorted(found, reverse=True))
