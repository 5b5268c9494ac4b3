"""Qwen2-VL, 2.5-VL and 3-VL under schedules: every prompt against the mask-based reference."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aim_cost import Schedule
from aim_cost.schedules.merge import MERGE_KINDS, POSITIONS, Merge
from aim_cost.schedules.prune import DROP_POINTS, Prune
from aim_runtime import patched
from aim_runtime.reference import Reference
from tests.runtime.qwen import (
    KINDS,
    LAYERS,
    Embedded,
    kind_of,
    qwen_inputs,
    text_tokens,
    tiny_qwen,
    visual_input,
)
from tests.runtime.slow_scores import RANKINGS, SLOW_SCORES

GREEDY = {"max_new_tokens": 3, "do_sample": False}
RATIOS = (1, 0.5, 0.5, 0.25)
BOTH = Schedule(Merge(retention=0.4), Prune(ratios=RATIOS))
SCHEDULES = [BOTH, Schedule(BOTH.merge), Schedule(prune=BOTH.prune)]
VIDEO, SMALL, LONG = (3, 6, 8), (2, 4, 4), (5, 4, 6)  # 12, 4 and 6 tokens a temporal patch
PICTURE, LITTLE = (6, 8), (4, 4)
PROMPTS = {
    "a video": [[4, VIDEO, 5]],
    "a video in front": [[VIDEO, 3]],
    "videos of different sizes": [[2, VIDEO, SMALL, 3, LONG, 4]],
    "an image": [[3, PICTURE, 4]],
    "images of different sizes": [[LITTLE, 2, PICTURE, LITTLE, 3]],
    "images and videos": [[2, PICTURE, 1, SMALL, LITTLE, VIDEO, 3]],
    "rows alike": [[4, VIDEO, 5], [1, VIDEO, 3]],
    "rows that lose differently": [[4, VIDEO, 5], [1, LONG, 3], [6, SMALL, 2]],
    "an image beside videos": [[3, PICTURE, 4], [1, SMALL, 2, VIDEO, 3]],
    "a row of text": [[4, VIDEO, 5], [7]],
    "text": [[6], [9]],
}


def counts(schedule):
    """Of a group, its tokens before merging and after each pass."""
    return lambda tokens: schedule.merge.other_counts(tokens) if schedule.merge else (tokens,)


def plan(schedule, kind, row, padding=0):
    """What a schedule should make of a row; text alone is not reduced."""
    reduced = schedule if any(not isinstance(part, int) for part in row) else Schedule()
    return reduced.resolve_visual(
        visual_input(row), text_tokens=text_tokens(kind, row) + padding, layers=LAYERS
    )


class Expected:
    """One prompt of a batch by slow code, from the unpatched model."""

    def __init__(self, model, row, inputs, schedule):
        self._reference = Reference(model.model.language_model, model.lm_head, SLOW_SCORES)
        by = schedule.merge.by if schedule.merge else "similarity"
        self.prompt = Embedded(model, row, inputs, counts(schedule), by)
        self._embeds, self.positions = self.prompt.embeds, self.prompt.positions
        self.kept = self._reference.kept(
            *(self._embeds, self.prompt.visual, plan(schedule, kind_of(model), row)), **self._more()
        )
        assert self._reference.smallest_margin > 1e-4

    def logits(self):
        """Of the tokens that are left: [count, V]."""
        return self._reference.logits(self._embeds, self.kept, **self._more())[self.kept[-1]]

    def greedy(self, tokens):
        return self._reference.generate(self._embeds, self.kept, tokens, **self._more())

    def _more(self):
        return {"positions": self.positions, "added": self.prompt.added}

    def teacher(self, model, new, first=None):
        """Logits [new, V] that precede each of ``new`` tokens.

        Args: first, position of the first of them, or of all but the last; without it they go on
            from the last position.
        """
        after = len(new) - 1
        embeds = torch.cat([self._embeds, model.get_input_embeddings()(new[:-1])])
        kept = [torch.cat([mask, mask.new_ones(after)]) for mask in self.kept]
        places = int(self.positions[0, -1]) + 1 if first is None else first
        if isinstance(places, int):
            places = places + torch.arange(after)
        positions = torch.cat([self.positions, places.expand(3, -1)], dim=1)
        added = torch.nn.functional.pad(self.prompt.added, (0, 0, 0, after))
        found = self._reference.logits(embeds, kept, positions=positions, added=added)
        return found[-len(new) :]


def alone(kind, rows, inputs, number):
    """One row of a batch as a prompt of its own, without its padding."""
    real = inputs["attention_mask"][number].bool()
    one = {
        name: inputs[name][number : number + 1, real]
        for name in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    for modality, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        sizes = inputs.get(f"{modality}_grid_thw")
        each = [
            sum(not isinstance(p, int) and (len(p) == 2) == (modality == "image") for p in row)
            for row in rows
        ]
        if not each[number]:
            continue
        mine = slice(sum(each[:number]), sum(each[: number + 1]))
        patches = sizes.prod(dim=1)
        start = int(patches[: mine.start].sum())
        one[f"{modality}_grid_thw"] = sizes[mine]
        one[pixels] = inputs[pixels][start : start + int(patches[mine].sum())]
        if modality == "video" and "second_per_grid_ts" in inputs:
            one["second_per_grid_ts"] = inputs["second_per_grid_ts"][mine]
    return one


@contextmanager
def rotated(model):
    """Positions that a decoder's rotary embedding gets, call by call."""
    seen = []
    hook = model.model.language_model.rotary_emb.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((*args, *kwargs.values())[1]), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


def check(kind, rows, schedule, seed=1, attention="sdpa"):
    """A batch by forward and by generate equals the reference, row by row."""
    model, inputs = tiny_qwen(kind), qwen_inputs(kind, *rows, seed=seed)
    model.set_attn_implementation(attention)
    with patched(model, schedule) as trace, rotated(model) as seen:
        logits = model(**inputs).logits
        traces, kept = trace.rows, trace.kept
        new = model.generate(**inputs, **GREEDY)[:, -3:]
        again, positions = trace.kept, [one for one in seen if one.shape[-1] > 1]
    assert len(positions) == 2
    assert all(torch.equal(*pair) for pair in zip(kept, again, strict=True))
    even = len({visual_input(row) for row in rows}) == 1
    for number, row in enumerate(rows):
        own = alone(kind, rows, inputs, number)
        length = len(Embedded(model, row, own, counts(schedule)).places)
        padding = kept[0].shape[1] - length
        expected = Expected(model, row, own, schedule)
        assert traces[number] == plan(schedule, kind, row, padding if even else 0)
        for mask, one in zip(expected.kept, kept, strict=True):
            left = mask.nonzero()[:, 0].tolist()
            assert (one[number, -len(left) :] - padding).tolist() == left
        if len(inputs.get("image_grid_thw", ())) or len(inputs.get("video_grid_thw", ())):
            for one in positions:
                assert torch.equal(one[:, number, padding:], expected.positions)
        found = expected.logits()
        torch.testing.assert_close(logits[number, -len(found) :], found, rtol=1e-3, atol=1e-3)
        assert new[number].tolist() == expected.greedy(3)


@pytest.mark.parametrize("rows", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_prompt_equals_the_reference(kind, rows):
    check(kind, rows, BOTH)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.sampled_from(list(PROMPTS.values())),
    merge=st.none()
    | st.builds(
        Merge,
        retention=st.sampled_from([0.3, 0.6]),
        by=st.sampled_from(MERGE_KINDS),
        positions=st.sampled_from(POSITIONS),
    ),
    prune=st.none()
    | st.sampled_from(RANKINGS).map(lambda ranking: Prune(ratios=RATIOS, **ranking)),
    attention=st.sampled_from(["sdpa", "eager"]),
    seed=st.integers(0, 5),
)
def test_every_schedule_equals_the_reference(kind, rows, merge, prune, attention, seed):
    check(kind, rows, Schedule(merge, prune), seed, attention)


@pytest.mark.parametrize("rows", ["an image beside videos", "a row of text"])
@pytest.mark.parametrize("drop_point", DROP_POINTS)
@pytest.mark.parametrize("ratios", [(0.5, 0.25, 0.25), (1, 0.4), (0.3, 0)])
def test_features_of_inner_blocks_go_with_the_tokens_that_are_left(ratios, drop_point, rows):
    """Tokens leave before the last level of DeepStack is added, after the second layer."""
    prune = Prune(ratios=ratios, importance="text-attention", drop_point=drop_point)
    check("qwen3-vl", PROMPTS[rows], Schedule(prune=prune))
    check("qwen3-vl", PROMPTS[rows], Schedule(Merge(retention=0.6), prune))


def test_the_score_is_that_of_the_rows_with_visual_tokens():
    prune = Prune(ratios=RATIOS, importance="text-attention")
    check("qwen2-vl", [[9], [4, VIDEO, 5]], Schedule(prune=prune))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ["a video", "an image beside videos"])
def test_the_last_layer_computes_the_last_token_alone(kind, rows):
    model, inputs = tiny_qwen(kind), qwen_inputs(kind, *PROMPTS[rows])
    with patched(model, BOTH) as trace:
        expected, all_rows = model(**inputs, logits_to_keep=1).logits, trace.rows
        new = model.generate(**inputs, **GREEDY)
    with patched(model, BOTH, last_layer="needed") as trace:
        logits = model(**inputs, logits_to_keep=1).logits
        assert trace.rows == [row.last_needed() for row in all_rows]
        assert torch.equal(model.generate(**inputs, **GREEDY), new)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
