"""A slow way from pixels to what enters the LLM: encoded, then merged or selected item by item."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import (
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
)

import tests.runtime.slow_attention
import tests.runtime.slow_density
import tests.runtime.slow_frames
import tests.runtime.slow_similarity  # noqa: F401  # they register their references
from aim_cost import ModelSpec
from aim_cost.models.images import image_grid
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.trace import TokenTrace
from tests.runtime.models import FRAME_TOKENS, Inputs, Model
from tests.runtime.reference import Embedded, slow_passes
from tests.runtime.slow_selections import SLOW_SELECTIONS, SlowItem, SlowTower
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN


class Item(NamedTuple):
    """An image or a video: features [tokens, H], the places of each group, newlines in none.

    ``views``: [groups, 3, height, width], the pixels of its frames or crops; ``video``: whether it
    is one.
    """

    features: Tensor
    groups: list[list[int]]
    in_order: bool = False
    views: Tensor | None = None
    video: bool = False


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
        return [
            Item(image, _rows(len(image)), views=view[None])
            for image, view in zip(features, pixels, strict=True)
        ]
    anyres = (LlavaNextForConditionalGeneration, LlavaNextVideoForConditionalGeneration)
    if not isinstance(model, anyres):
        features = model.model.get_image_features(pixels).pooler_output
        return [Item(image, _rows(len(image))) for image in features]
    spec = ModelSpec.from_hf_config(model.config.to_dict())
    sizes = [tuple(size) for size in inputs["image_sizes"].tolist()]
    packed = model.model.get_image_features(pixels, inputs["image_sizes"]).pooler_output
    return [
        Item(
            image,
            [[p for part in group for p in part] for group in grid.groups],
            in_order=True,
            views=crops[: len(grid.groups)],
        )
        for image, crops, grid in zip(
            packed, pixels, (image_grid(spec, size) for size in sizes), strict=True
        )
    ]


def slow_videos(model: Model, inputs: Inputs) -> list[Item]:
    """The videos of ``inputs`` in order."""
    items = []
    for video in inputs.get("pixel_values_videos", ()):
        grid = _patches(model, video).unflatten(1, (6, 6))
        corners = [grid[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        pooled = torch.stack(corners).mean(dim=0).flatten(1, 2)
        features = model.model.multi_modal_projector(pooled)
        rows = _rows(FRAME_TOKENS, len(video))
        items.append(Item(features.flatten(0, 1), rows, views=video, video=True))
    return items


Reduce = Callable[[Item, Tensor], tuple[list[Tensor], list[int]]]
"""From an item and the text [T, H] around it: the tokens left, and where in it each stood."""


def slow_prompts(model: Model, inputs: Inputs, reduce: Sequence[Reduce]) -> list[Embedded]:
    """Each prompt of a batch without its padding, reduced item by item: one ``reduce`` a row."""
    queues = {IMAGE_TOKEN: slow_images(model, inputs), VIDEO_TOKEN: slow_videos(model, inputs)}
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    prompts = [
        _prompt(model, ids[real], queues, own)
        for ids, real, own in zip(inputs["input_ids"], mask, reduce, strict=True)
    ]
    assert not any(queues.values())
    return prompts


def _prompt(model: Model, ids: Tensor, queues: dict[int, list[Item]], reduce: Reduce) -> Embedded:
    text, place = model.get_input_embeddings()(ids), 0
    around = text[[int(token) not in queues for token in ids]]
    embeds, visual, positions = [], [], []
    while place < len(ids):
        if int(ids[place]) not in queues:
            embeds.append(text[place])
            visual.append(False)
            positions.append(place)
            place += 1
            continue
        item = queues[int(ids[place])].pop(0)
        tokens, places = reduce(item, around)
        embeds += tokens
        visual += [True] * len(tokens)
        positions += [place + p for p in places]
        place += len(item.features)
    return Embedded(torch.stack(embeds), torch.tensor(visual), torch.tensor(positions))


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
