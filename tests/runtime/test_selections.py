"""Tokens selected before the LLM: every prompt, every way to choose, against a slow reference."""

import pytest

from aim_cost import Case, Schedule, Workload
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import VisualInput
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_runtime import patched
from aim_runtime.selection import SELECTIONS
from tests.runtime.agree import check
from tests.runtime.models import BUILDERS, CROP, NAMES, named_inputs, prompt_of, tiny_next
from tests.runtime.slow_selections import SLOW_SELECTIONS

UNEQUAL = {
    *(("next", name) for name in ("several images", "padding", "other prompts")),
    *(("next-video", name) for name in ("several images", "images and a video", "other prompts")),
}
"""Prompts with an image of unequal tiles."""

EVERYWHERE = [
    *(("random", family, name) for family, name in NAMES),
    *(
        ("vision-attention", family, name)
        for family, name in NAMES
        if (family, name) not in UNEQUAL
    ),
]


def test_each_way_that_runs_has_a_price_and_a_slow_reference():
    assert set(SELECTIONS) == {name for name, score in VISUAL_SCORES.items() if score.runs}
    assert set(SLOW_SELECTIONS) == set(SELECTIONS)


@pytest.mark.parametrize(("by", "family", "name"), EVERYWHERE)
def test_every_prompt_equals_the_reference(by, family, name):
    model = BUILDERS[family]()
    check(model, named_inputs(model, family, name), Schedule.parse(f"select 0.45 score={by}"))


@pytest.mark.parametrize(
    ("amount", "videos"), [("prompt:4", 1), ("prompt:12", 3), ("prompt:2", 1), ("0.05", 1)]
)
def test_grids_that_frames_do_not_share_are_refused(amount, videos):
    """Of three frames: 4 tokens are not one each and one more, and 2 are not none each."""
    model = BUILDERS["next-video"]()
    inputs = prompt_of(model, [2, *["video 3"] * videos, 3])
    schedule = Schedule.parse(f"select {amount} score=pooled-grid")
    with pytest.raises(ScheduleError, match="square grids"), patched(model, schedule):
        model(**inputs)


def test_grids_that_frames_do_not_share_have_no_price():
    case = Case("llava-next-video-7b", Workload(9, frames=3), "h100-sxm")
    assert case.price("select prompt:12 score=pooled-grid").phase("merge").write_bytes
    for amount in ("prompt:4", "prompt:2", "0.05"):
        with pytest.raises(ScheduleError, match="square grids"):
            case.price(f"select {amount} score=pooled-grid")


@pytest.mark.parametrize("by", ["adjacent-cosine", "groups-of-four", "groups-of-four-loop"])
def test_tiles_of_an_image_are_no_frames(by):
    """Base view and tiles of this image have one size, as frames have."""
    model = tiny_next()
    inputs = prompt_of(model, (4, (2 * CROP, CROP), 5))
    select = Schedule.parse(f"select 0.5 score={by}")
    assert select.resolve_visual(VisualInput(3, 36, 2), text_tokens=9, layers=4).selected
    with (
        patched(model, select),
        pytest.raises(ScheduleError, match="whose frames it compares, got an image"),
    ):
        model(**inputs)
    case = Case("llava-v1.6-vicuna-7b", Workload(9, images=((672, 336),)), "h100-sxm")
    with pytest.raises(ScheduleError, match="whose frames it compares, got an image"):
        case.price(select)


@pytest.mark.parametrize("by", SELECTIONS)
@pytest.mark.parametrize(
    ("family", "name"), [("llava-1.5", "other numbers"), ("next-video", "several videos")]
)
def test_every_way_equals_the_reference(family, name, by):
    model = BUILDERS[family]()
    inputs = named_inputs(model, family, name)
    if name == "other numbers" and VISUAL_SCORES[by].least_frames > 1:
        with (
            pytest.raises(ScheduleError, match="frames"),
            patched(model, f"select prompt:7 score={by}"),
        ):
            model(**inputs)
        return
    for amount in ("prompt:7", "frame:4"):
        if by == "pooled-grid" and amount == "prompt:7":
            with (
                pytest.raises(ScheduleError, match="square grids"),
                patched(model, Schedule.parse("select prompt:7 score=pooled-grid")),
            ):
                model(**inputs)
            continue
        check(model, inputs, Schedule.parse(f"select {amount} score={by}, prune linear:1:4"))
