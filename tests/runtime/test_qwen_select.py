"""Qwen2-VL and Qwen2.5-VL: what enters the LLM of the tokens that select keeps, and where."""

import pytest
import torch

from aim_cost import Schedule
from aim_runtime import PatchError, patched
from tests.runtime.qwen import (
    KINDS,
    features_alone,
    grid,
    group,
    qwen_inputs,
    rope_table,
    tiny_qwen,
)
from tests.runtime.slow_blocks import slow_blocks
from tests.runtime.slow_prompts import SLOW_SELECTIONS, SlowItem
from tests.runtime.test_qwen import PROMPTS, alone, rotated

READ = {"full": (0, 2)}
"""A tower whose last block has no windows."""
BY = ("uniform", "vision-attention", "vision-attention-joined", "vision-attention-pairs")
"""One that reads nothing, then attention, keys' mean over heads, keys of all heads."""


def entering(model, inputs, schedule):
    """Embeddings [B, n, H] and positions [3, B, n] that the decoder gets."""
    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with patched(model, schedule), rotated(model) as positions:
        model(**inputs)
    hook.remove()
    return seen[0], positions[0]


def expected(model, kind, row, inputs, schedule):
    """The same of one prompt, item by item."""
    ids, margins = inputs["input_ids"][0], [1.0]
    embeds, table = model.get_input_embeddings()(ids), rope_table(model, inputs)[:, 0]
    items = {name: iter(_items(model, kind, inputs, name)) for name in ("image", "video")}
    ranked = iter(schedule.select.ranked([[group(p)] for p in row if not isinstance(p, int)]))
    tokens, places, place = [], [], 0
    for part in row:
        if not isinstance(part, int):
            tokens.append(embeds[place])  # the start of an image or a video
            places.append(place)
            place += 1
            features, tower = next(items[grid(part)[0]])
            (ask,) = next(ranked)
            item = SlowItem(
                features, group(part)[0], ask.sets, ask.kept, tower, embeds, margins.append
            )
            kept, left = list(range(len(features)))[: ask.sets * ask.kept], features
            if ask.chooses:
                kept, left = SLOW_SELECTIONS[schedule.select.by](item)
            tokens += left
            places += [place + p for p in kept]
            place += len(features)
        for _ in range(part if isinstance(part, int) else 1):
            tokens.append(embeds[place])
            places.append(place)
            place += 1
    assert place == len(ids)
    assert min(margins) > 1e-6, "choose another seed"
    return torch.stack(tokens), table[:, places]


def _items(model, kind, inputs, modality):
    """Features of each image or video, and what reads its tower."""
    sizes = inputs.get(f"{modality}_grid_thw", torch.empty(0, 3)).tolist()
    pixels = inputs.get("pixel_values" if modality == "image" else "pixel_values_videos")
    for size, features in zip(sizes, features_alone(model, inputs, modality), strict=True):
        count = size[0] * size[1] * size[2]
        own, pixels = pixels[:count], pixels[count:]
        yield features, lambda own=own, size=size: slow_blocks(model, kind, own, size)


@pytest.mark.parametrize(
    "rows",
    ["images of different sizes", "images and videos", "rows that lose differently"],
)
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("kind", KINDS)
def test_what_enters_the_llm_equals_the_reference(kind, by, rows):
    rows = PROMPTS[rows]
    model, inputs = tiny_qwen(kind, **READ), qwen_inputs(kind, *rows)
    for amount in ("0.4", "frame:3"):
        schedule = Schedule.parse(f"select {amount} score={by}")
        embeds, positions = entering(model, inputs, schedule)
        for number, row in enumerate(rows):
            own = alone(kind, rows, inputs, number)
            tokens, places = expected(model, kind, row, own, schedule)
            torch.testing.assert_close(embeds[number, -len(tokens) :], tokens, rtol=1e-4, atol=1e-5)
            assert torch.equal(positions[:, number, -len(tokens) :], places)


def test_a_tower_whose_last_block_has_windows_is_refused():
    schedule = Schedule.parse("select 0.4 score=vision-attention")
    with (
        pytest.raises(PatchError, match=r"got fullatt_block_indexes \[1\] of 3 blocks"),
        patched(tiny_qwen("qwen2.5-vl"), schedule),
    ):
        pass


def test_a_tower_that_is_compiled_is_refused():
    model = tiny_qwen("qwen2-vl")
    model.model.visual.blocks[-1].attn.qkv.compile()
    with (
        pytest.raises(PatchError, match=r"vision tower.layers.2.attn.qkv"),
        patched(model, Schedule.parse("select 0.4 score=vision-attention")),
    ):
        pass
