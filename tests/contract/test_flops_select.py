"""Selection before the LLM: traces and FLOPs predicted equal those that ran, phase by phase."""

import pytest

from aim_cost import Schedule, Workload, load_hardware
from aim_cost.errors import AimError
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_runtime.selection import SELECTIONS
from aim_runtime.validation.counts import check_counts
from tests.contract.test_flops_families import loaded

WORKLOADS = [
    ("llava-1.5", {"image_tokens": 27, "batch": 2}),
    ("llava-1.5-full", {"images": ((40, 30), (9, 50))}),
    ("llava-siglip", {"image_tokens": 9}),
    ("llava-next", {"images": ((50, 100), (100, 40), (40, 90)), "batch": 2}),
    ("llava-next-video", {"frames": 3, "batch": 2}),
    ("llava-next-video", {"images": ((50, 100), (100, 40), (40, 90)), "batch": 2}),
    ("llava-onevision", {"frames": 3, "batch": 2}),
    ("llava-onevision", {"images": ((100, 140), (150, 150))}),
    ("qwen2-vl", {"frames": 4, "frame_size": (84, 140), "batch": 2}),
    ("qwen2.5-vl", {"images": ((100, 140), (90, 60), (150, 90))}),
]
UNEQUAL = {"images": ((50, 100), (100, 40), (40, 90)), "batch": 2}


def takes(family, pixels, score):
    """Whether a score ranks what such a model makes of the pixels."""
    if score.name == "pooled-grid" and ("qwen" in family or "full" in family):
        return False  # no square grids
    if score.least_frames > pixels.get("frames", 1):
        return False
    return score.across_sizes or pixels != UNEQUAL


@pytest.mark.parametrize("by", SELECTIONS)
@pytest.mark.parametrize(("family", "pixels"), WORKLOADS)
def test_traces_and_flops_are_exact(family, pixels, by):
    model, workload = loaded(family), Workload(text_tokens=9, **pixels)
    amounts = ("frame:1", "frame:4") if by == "pooled-grid" else ("0.4", "frame:3")
    schedules = [
        Schedule.parse(f"select {amounts[0]} score={by}, prune linear:0:2"),
        Schedule.parse(f"select {amounts[1]} score={by}"),
    ]
    if not takes(family, pixels, VISUAL_SCORES[by]):
        with pytest.raises(AimError, match="select"):
            list(check_counts(model, workload, schedules, load_hardware("h100-sxm")))
        return
    for row in check_counts(model, workload, schedules, load_hardware("h100-sxm")):
        assert row.traces_equal, row.differences
        assert row.flops_equal, row.differences
        assert row.tokens.selected
