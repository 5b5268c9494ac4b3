"""Merging in the vision tower: its language, its counts, its price."""

import pytest

from aim_cost import Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_cost.conventions.convention import CONVENTIONS, EXECUTED
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import VisualInput
from aim_cost.papers.accuracy import method_of
from aim_cost.schedules.vision_merge import VisionMerge
from aim_cost.studies.compared import free_twin
from aim_cost.studies.evidence import Knobs
from aim_cost.studies.lmms_results import lmms_scores

H100 = load_hardware("h100-sxm")
SMALL = load_model_spec("llava-onevision-qwen2-0.5b")
VIDEO = Workload(text_tokens=100, frames=32)


def price(label, model=SMALL, convention=EXECUTED):
    schedule = Schedule.parse(label)
    return estimate(model, VIDEO, schedule, H100, convention=convention)


def test_defaults_are_not_in_files():
    assert Schedule.parse("vision-merge 16").to_dict() == {"vision_merge": {"remove": 16}}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "s.vision_merge: expected a remove, got none"),
        ({"remove": 4, "layer": 3}, "valid keys: attention, layers, remove"),
        ({"remove": 4, "layers": 3}, "expected a list"),
        ({"remove": 4, "layers": [1, 2, 3]}, "first and last layer"),
        ({"remove": 4, "layers": [-1, 3]}, "at least 0"),
        ({"remove": True}, "at least 1"),
    ],
)
def test_wrong_files(data, expected):
    with pytest.raises(ScheduleError, match=expected):
        Schedule.from_dict({"vision_merge": data}, where="s")


def test_counts_of_each_layer():
    assert VisionMerge(3, (1, 2)).token_counts(10, 4) == (10, 10, 7, 4, 4)
    assert VisionMerge(2).token_counts(9, 3) == (9, 7, 5, 3)
    # one of nine is protected: 8, 5 are left to pair
    with pytest.raises(ScheduleError, match=r"half of the 5 tokens in layer 1, got 3.*at most 2 a"):
        VisionMerge(3).token_counts(9, 3, protected=1)
    with pytest.raises(ScheduleError, match="layers below 4"):
        VisionMerge(1, (2, 4)).token_counts(9, 4)


@pytest.mark.parametrize("tokens", [25, 729])
def test_the_largest_count_named_is_the_largest_that_fits(tokens):
    with pytest.raises(ScheduleError) as refused:
        VisionMerge(tokens).token_counts(tokens, 6)
    most = int(str(refused.value).split("at most ")[2].split()[0])
    VisionMerge(most).token_counts(tokens, 6)
    with pytest.raises(ScheduleError):
        VisionMerge(most + 1).token_counts(tokens, 6)


def test_the_trace_knows_the_tower_where_the_model_is_known():
    trace = Schedule.parse("vision-merge 16 layers=4-20 attention=plain, merge 0.25").resolve(
        SMALL, VIDEO
    )
    assert trace.tower_tokens == (*(729,) * 5, *range(713, 457, -16), *(457,) * 6)
    assert trace.tower_attention == "plain"
    assert trace.reduces
    without = Schedule.parse("merge 0.25").resolve(SMALL, VIDEO)
    assert (without.tower_tokens, without.prompt_tokens) == ((), trace.prompt_tokens)
    anything = VisualInput(groups=1, group_tokens=9, newline_tokens=0)
    bare = Schedule.parse("vision-merge 4").resolve_visual(anything, text_tokens=3, layers=2)
    assert bare.tower_tokens == ()


def test_one_merging_layer_by_hand():
    whole, merged = price("none"), price("vision-merge 16 layers=25-25")
    mlp = 2 * 32 * 16 * 2 * 1152 * 4304
    match = 2 * 32 * 365 * 364 * 72
    assert whole.flops - merged.flops == mlp - match
    added = [op.name for op in merged.graph.phase("vision.tower") if op.layer == 25]
    assert {"mean_keys", "match", "average", "places"} <= set(added)
    assert not any(op.name == "log_sizes" for op in merged.graph)


def test_sizes_cost_traffic_and_no_flops():
    proportional, plain = price("vision-merge 16"), price("vision-merge 16 attention=plain")
    assert proportional.flops == plain.flops
    assert [op.layer for op in proportional.graph if op.name == "log_sizes"] == [*range(1, 26)]
    assert not any(op.name == "log_sizes" for op in plain.graph)


def test_conventions_without_a_tower_count_what_they_did():
    for convention in CONVENTIONS.values():
        same = (
            price("vision-merge 16", convention=convention).flops
            == price("none", convention=convention).flops
        )
        assert same == ("vision tower" in convention.not_counted)


def test_memory_falls_with_the_tower():
    video = (
        price("vision-merge 20").memory.vision_activation_bytes,
        price("none").memory.vision_activation_bytes,
    )
    assert video[0] < video[1]


def test_it_is_no_schedule_of_aims_own():
    schedule = Schedule.parse("vision-merge 16, merge 0.25")
    assert method_of(schedule) == "vision-merge 16, merge 0.25"
    assert Knobs.of(schedule, SMALL, 32) is None
    assert Knobs.of(Schedule.parse("merge 0.25"), SMALL, 32) is not None
    assert free_twin(schedule).vision_merge == schedule.vision_merge


def test_results_of_lmms_eval_name_it():
    data = {
        "results": {"videomme": {"score,none": 0.5}},
        "config": {"model_args": "pretrained=x,vision_merge=16:4-20,merge=0.25"},
    }
    (score,) = lmms_scores(data, "file")
    assert score.schedule == Schedule.parse("vision-merge 16 layers=4-20, merge 0.25")
