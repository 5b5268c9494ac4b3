"""Fewer frames: a prompt of all frames runs as one that was made of the sampled frames alone."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from aim_cost import Schedule, Workload, load_hardware
from aim_cost.errors import AimError, ScheduleError
from aim_cost.schedules.sample import Sample
from aim_runtime import PatchError, patch, patched
from aim_runtime.patching.masked import masked
from aim_runtime.seams import cache_of, tower_keeps_hidden_states
from aim_runtime.validation.counts import check_counts
from tests.contract.test_flops_families import loaded
from tests.runtime.models import FRAME_TOKENS as NEXT_FRAME
from tests.runtime.models import WIDE, batch_of, prompt_of, tiny_next_video
from tests.runtime.qwen import KINDS, qwen_inputs, rope_table, tiny_qwen
from tests.runtime.qwen import VIDEO_TOKEN as QWEN_VIDEO
from tests.runtime.support import FRAME_TOKENS, VIDEO_TOKEN, tiny_llava, video_inputs

GREEDY = {"max_new_tokens": 3, "do_sample": False}
FRAMES, KEPT = 5, (1, 3)
"""Of five frames ``sample 2`` leaves the ones in the middles of the two halves."""

REST = [
    "none",
    "prune linear:1:4",
    "merge 0.5, prune linear:1:4",
    "merge 0.5 positions=kept",
    "select 0.3 score=random, prune ratios:1,1,0.5",
    "select frame:3 score=vision-attention",
]


def sampling(frames, rest):
    """``rest`` of a video of which few frames are encoded."""
    return replace(Schedule.parse(rest), sample=Sample(frames))


def onevision_alone(inputs, kept):
    """The prompt that a processor writes for these frames alone."""
    ids = inputs["input_ids"]
    visual = (ids == VIDEO_TOKEN).cumsum(dim=1)
    stays = (ids[0] != VIDEO_TOKEN) | (visual[0] <= len(kept) * FRAME_TOKENS + 1)
    return {
        "input_ids": ids[:, stays],
        "attention_mask": inputs["attention_mask"][:, stays],
        "pixel_values_videos": inputs["pixel_values_videos"][:, list(kept)],
    }


def test_frames_are_the_middles_of_equal_parts():
    assert Sample(2).groups(FRAMES, 1) == KEPT
    assert Sample(3).groups(8, 1) == (1, 4, 6)
    assert Sample(3).groups(8, 2) == (2, 6)  # two pairs
    assert Sample(9).groups(4, 1) == Sample(8).groups(4, 2) == (0, 1, 2, 3)


@pytest.mark.parametrize("rest", REST)
def test_onevision_runs_as_on_the_sampled_frames(rest):
    """Without kept positions, which count the frames that were left out."""
    model, inputs = tiny_llava(layers=5), video_inputs(FRAMES, batch=2)
    alone = onevision_alone(inputs, KEPT)
    with patched(model, Schedule.parse(rest)) as trace:
        wanted, tokens = model(**alone).logits, trace.tokens
        new = model.generate(**alone, **GREEDY)[:, -3:]
        beams = model.generate(**alone, num_beams=2, **GREEDY)[:, -3:]
    with patched(model, sampling(2, rest)) as trace:
        found = model(**inputs)
        assert trace.tokens == tokens
        assert trace.tokens.groups == 2
        again = model.generate(**inputs, **GREEDY)
        more = model.generate(**inputs, num_beams=2, **GREEDY)
    assert torch.equal(again[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    if "positions=kept" in rest:
        assert not torch.allclose(found.logits, wanted)
        return
    assert torch.equal(found.logits, wanted)
    assert torch.equal(again[:, -3:], new)
    assert torch.equal(more[:, -3:], beams)
    assert cache_of(found).get_seq_length() == tokens.attention_tokens[0]


def test_the_tower_never_sees_the_other_frames():
    model, inputs = tiny_llava(), video_inputs(FRAMES)
    changed = inputs["pixel_values_videos"].clone()
    changed[:, [0, 2, 4]] = torch.nan
    seen = []
    hook = model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len([*args, *kwargs.values()][0])),
        with_kwargs=True,
    )
    with patched(model, Schedule.parse("sample 2")):
        wanted = model(**inputs).logits
        found = model(**inputs | {"pixel_values_videos": changed}).logits
        new = model.generate(**inputs | {"pixel_values_videos": changed}, **GREEDY)
    hook.remove()
    assert torch.equal(found, wanted)
    assert new.shape[1] == inputs["input_ids"].shape[1] + 3
    assert seen == [2, 2, 2]


def without(inputs, count):
    """``input_ids`` and ``attention_mask`` with so many fewer placeholders in rows of a video."""
    rows = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
        visual = (ids == VIDEO_TOKEN).cumsum(dim=0)
        rows.append(ids[mask & ((ids != VIDEO_TOKEN) | (visual > count))])
    return batch_of(
        [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in rows]
    )


@pytest.mark.parametrize("rest", ["none", "merge 0.5, prune linear:1:4", "select frame:2"])
def test_next_video_runs_as_on_the_sampled_frames_beside_images(rest):
    model = tiny_next_video(layers=5)
    rows = [(4, WIDE, 3, "video 5", 5), (2, "video 5", 3), (6,)]
    inputs = batch_of([prompt_of(model, row, seed) for seed, row in enumerate(rows)])
    pixels = {"pixel_values_videos": inputs["pixel_values_videos"][:, list(KEPT)]}
    alone = inputs | without(inputs, 3 * NEXT_FRAME) | pixels
    with patched(model, Schedule.parse(rest)) as trace:
        wanted, new = model(**alone).logits, model.generate(**alone, **GREEDY)[:, -3:]
        tokens = trace.rows
    with patched(model, sampling(2, rest)) as trace:
        found = model(**inputs).logits
        assert [row.groups for row in trace.rows] == [row.groups for row in tokens]
        assert [row.attention_tokens[1:] for row in trace.rows] == [
            row.attention_tokens[1:] for row in tokens
        ]
        again = model.generate(**inputs, **GREEDY)[:, -3:]
    torch.testing.assert_close(found[:, -3:], wanted[:, -3:], rtol=0, atol=1e-5)
    assert torch.equal(again, new)


@pytest.mark.parametrize("rest", ["", "select 0.5 score=uniform", "merge 0.4, prune linear:0:2"])
@pytest.mark.parametrize("kind", KINDS)
def test_qwen_keeps_the_times_of_the_sampled_pairs(kind, rest):
    """The model itself, on the sampled pairs at the positions that they had."""
    model = tiny_qwen(kind)
    rows = [(4, (5, 4, 8), 2, (4, 4), 3), (3, (3, 4, 4), 5)]
    kept = [(1, 3), (0, 2)]  # of five pairs, of three
    inputs = qwen_inputs(kind, *rows)
    table = rope_table(model, inputs)
    stays = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    pixels, start = [], 0
    for row, ((times, height, width), numbers) in enumerate(
        zip(((5, 4, 8), (3, 4, 4)), kept, strict=True)
    ):
        places = (inputs["input_ids"][row] == QWEN_VIDEO).nonzero()[:, 0]
        for number in range(times):
            patches = slice(start, start + height * width)
            start += height * width
            if number in numbers:
                pixels.append(inputs["pixel_values_videos"][patches])
            else:
                each = height * width // 4
                stays[row, places[number * each : (number + 1) * each]] = False
    with patched(model, Schedule.parse("sample 4" + f", {rest}" * bool(rest))) as trace:
        found = model(**inputs).logits
        new = model.generate(**inputs, **GREEDY)[:, -3:]
        assert [row.groups for row in trace.rows] == [2, 2]
    grids = torch.tensor([[2, 4, 8], [2, 4, 4]])
    parts = {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": grids}
    for row in range(2):
        own = stays[row] & inputs["attention_mask"][row].bool()
        alone = {name: inputs[name][row : row + 1, own] for name in ("input_ids",)}
        alone["position_ids"] = table[:, row : row + 1, own]
        patches = slice(0, 64) if row == 0 else slice(64, 96)
        alone["pixel_values_videos"] = parts["pixel_values_videos"][patches]
        alone["video_grid_thw"] = grids[row : row + 1]
        if row == 0:
            alone |= {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
        with patched(model, Schedule.parse(rest)) if rest else nullcontext():
            logits = model(**alone).logits[0]
        torch.testing.assert_close(found[row, -3:], logits[-3:], rtol=0, atol=1e-5)
        assert new[row, 0] == logits[-1].argmax()


WORKLOADS = [
    ("llava-onevision", {"frames": 5, "batch": 2}),
    ("llava-next-video", {"frames": 3}),
    ("qwen2-vl", {"frames": 7, "frame_size": (84, 140), "batch": 2}),
    ("qwen2.5-vl", {"frames": 6, "frame_size": (84, 140)}),
    ("qwen3-vl", {"frames": 7, "frame_size": (96, 160)}),
]


@pytest.mark.parametrize(("family", "pixels"), WORKLOADS)
def test_traces_and_flops_are_exact(family, pixels):
    schedules = [
        Schedule.parse(text)
        for text in ("sample 2", "sample 3, merge 0.4, prune linear:0:2", "sample 99")
    ]
    model, workload = loaded(family), Workload(text_tokens=9, **pixels)
    rows = list(check_counts(model, workload, schedules, load_hardware("h100-sxm")))
    for row in rows:
        assert row.traces_equal, row.differences
        assert row.flops_equal, row.differences
    counted = [row.counted["vision.tower"] for row in rows]
    assert counted[0] < counted[2] >= counted[1]


def test_masked_pruning_samples_too():
    model, inputs = tiny_llava(layers=5), video_inputs(FRAMES)
    alone = onevision_alone(inputs, KEPT)
    with masked(model, Schedule.parse("merge 0.5, prune linear:1:4")):
        wanted = model(**alone).logits
    with masked(model, Schedule.parse("sample 2, merge 0.5, prune linear:1:4")):
        assert torch.equal(model(**inputs).logits, wanted)


def test_what_cannot_be_sampled_is_refused(qwen2):
    model, inputs = tiny_llava(), video_inputs(FRAMES)
    with pytest.raises(ScheduleError, match="a video, whose frames it samples"):
        Schedule.parse("sample 2").resolve(
            loaded("llava-onevision").spec, Workload(9, images=((70, 70),))
        )
    with pytest.raises(AimError, match=r"sample\.frames"):
        Sample(0)
    with pytest.raises(PatchError, match=r"schedule\.sample"):
        patch(qwen2, Schedule.parse("sample 2"), visual_mask=torch.ones(1, 4).bool())
    if tower_keeps_hidden_states(model):
        return  # this release takes no ready features
    rest = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with patched(model, Schedule.parse("sample 2")):
        whole = model.get_video_features(inputs["pixel_values_videos"])
        with pytest.raises(PatchError, match="other frames than the schedule samples"):
            model(**rest, mm_encoder_outputs={"video": whole})
