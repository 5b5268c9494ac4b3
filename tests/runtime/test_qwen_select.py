"""Qwen2-VL, 2.5-VL and 3-VL: what enters the LLM of the tokens that select keeps, and where."""

import pytest
import torch

from aim_cost import Schedule
from aim_runtime import PatchError, patched
from aim_runtime.reference import Reference
from tests.runtime.qwen import (
    KINDS,
    LAYERS,
    features_alone,
    grid,
    group,
    levels_alone,
    pieces,
    qwen_inputs,
    rope_table,
    text_tokens,
    tiny_qwen,
    visual_input,
)
from tests.runtime.slow_blocks import slow_blocks
from tests.runtime.slow_prompts import SLOW_SELECTIONS, SlowItem
from tests.runtime.slow_scores import SLOW_SCORES
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN
from tests.runtime.test_qwen import PROMPTS, alone, rotated

READ = {"full": (0, 2)}
"""A tower whose last block has no windows."""
BY = ("uniform", "vision-attention", "vision-attention-joined", "vision-attention-pairs")
"""One that reads nothing, then attention, keys' mean over heads, keys of all heads."""


def entering(model, inputs, schedule):
    """Embeddings [B, n, H], positions [3, B, n] and DeepStack [levels, B, n, H] that enter."""
    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    with patched(model, schedule), rotated(model) as positions:
        model(**inputs)
    hook.remove()
    embeds, levels = seen[0]["inputs_embeds"], seen[0].get("deepstack_visual_embeds") or []
    added = torch.zeros(len(levels), *embeds.shape)
    if levels:
        added[:, seen[0]["visual_pos_masks"]] = torch.stack(list(levels))
    return embeds, positions[0], added


def expected(model, kind, row, inputs, schedule):
    """The same of one prompt, item by item: what is left of a run stands there."""
    ids, margins = inputs["input_ids"][0], [1.0]
    embeds, table = model.get_input_embeddings()(ids), rope_table(model, inputs)[:, 0]
    items = {name: iter(_items(model, kind, inputs, name)) for name in ("image", "video")}
    ranked = iter(schedule.select.ranked([[group(p)] for p in row if not isinstance(p, int)]))
    tokens, places, added, place = [], [], [], 0
    for piece in pieces(kind, row):
        if isinstance(piece, int):
            tokens += embeds[place : place + piece]
            places += range(place, place + piece)
            added += [torch.zeros(())] * piece
            place += piece
            continue
        part, first, number = piece
        each = group(part)[1]
        if not first:
            features, tower, levels = next(items[grid(part)[0]])
            (ask,) = next(ranked)
            item = SlowItem(
                features, group(part)[0], ask.sets, ask.kept, tower, embeds, margins.append
            )
            kept, left = list(range(len(features)))[: ask.sets * ask.kept], features
            if ask.chooses:
                kept, left = SLOW_SELECTIONS[schedule.select.by](item)
            stays = dict(zip(kept, left, strict=False))
        here = [p for p in kept if first * each <= p < (first + number) * each]
        tokens += [stays[p] for p in here]
        added += [levels[:, p] for p in here]
        places += [place + p - first * each for p in here]
        place += number * each
    assert place == len(ids)
    assert min(margins) > 1e-6, "choose another seed"
    empty = torch.zeros(len(levels), embeds.shape[-1])
    return torch.stack(tokens), table[:, places], torch.stack([x + empty for x in added], 1)


def _items(model, kind, inputs, modality):
    """Features of each image or video, and what reads its tower."""
    sizes = inputs.get(f"{modality}_grid_thw", torch.empty(0, 3)).tolist()
    pixels = inputs.get("pixel_values" if modality == "image" else "pixel_values_videos")
    alone = zip(
        *(features_alone(model, inputs, modality), levels_alone(model, inputs, modality)),
        strict=True,
    )
    for size, (features, levels) in zip(sizes, alone, strict=True):
        count = size[0] * size[1] * size[2]
        own, pixels = pixels[:count], pixels[count:]
        yield features, lambda own=own, size=size: slow_blocks(model, kind, own, size), levels


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
        embeds, positions, added = entering(model, inputs, schedule)
        for number, row in enumerate(rows):
            own = alone(kind, rows, inputs, number)
            tokens, places, stacked = expected(model, kind, row, own, schedule)
            torch.testing.assert_close(embeds[number, -len(tokens) :], tokens, rtol=1e-4, atol=1e-5)
            assert torch.equal(positions[:, number, -len(tokens) :], places)
            last = added[:, number, -len(tokens) :]
            torch.testing.assert_close(last, stacked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_selected_answers_as_the_reference(kind):
    """From there on, by forward and by ``generate``, alone and several times in a batch."""
    row = [4, (3, 6, 8), 5]
    model, inputs = tiny_qwen(kind, **READ), qwen_inputs(kind, row)
    schedule = Schedule.parse("select 0.4 score=vision-attention, prune ratios:1,0.5,0.5,0.25")
    tokens, places, added = expected(model, kind, row, inputs, schedule)
    visual = torch.isin(inputs["input_ids"][0], torch.tensor([IMAGE_TOKEN, VIDEO_TOKEN]))
    reference = Reference(model.model.language_model, model.lm_head, SLOW_SCORES)
    text, more = text_tokens(kind, row), {"positions": places, "added": added}
    plan = schedule.resolve_visual(visual_input(row), text_tokens=text, layers=LAYERS)
    entered = _visual_of(model, tokens, inputs["input_ids"][0][~visual])
    kept = reference.kept(tokens, entered, plan, **more)
    assert reference.smallest_margin > 1e-4, "choose another seed"
    with patched(model, schedule) as trace:
        logits = model(**inputs).logits[0]
        assert trace.tokens == plan
        greedy = {"max_new_tokens": 3, "do_sample": False}
        new = model.generate(**inputs, **greedy)[:, -3:]
        options = greedy | {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
        copies = model.generate(**inputs, **options)[:, -3:]
    wanted = reference.logits(tokens, kept, **more)[kept[-1]]
    torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-3)
    assert new[0].tolist() == reference.generate(tokens, kept, 3, **more)
    assert torch.equal(copies, new.repeat(2, 1))


def _visual_of(model, tokens, text):
    """Which of ``tokens`` [n, H] are none of the text's, bool [n]: those stay in order."""
    words, visual = iter(model.get_input_embeddings()(text)), []
    word = next(words)
    for token in tokens:
        visual.append(word is None or not torch.equal(token, word))
        if not visual[-1]:
            word = next(words, None)
    assert word is None
    return torch.tensor(visual)


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
