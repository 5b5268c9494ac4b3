"""Baselines that a method should beat: no look at any token."""

import math

from aim_cost.methods.method import Setting, method
from aim_cost.methods.parameter import Parameter
from aim_cost.schedules.sample import Sample
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.select import Select

_SHARE = Parameter("retention", "share", "share of the tokens kept", 0.25, scales="up")
_TOKENS = Parameter(
    "tokens", "count", "tokens kept of the prompt, instead", least=1, replaces="retention"
)


def _of_all(retention: float | None, tokens: int | None, by: str) -> Schedule:
    return Schedule(select=Select(retention=retention, tokens=tokens, by=by))


@method("random", "random choice, a baseline", None, "before", _SHARE, _TOKENS)
def random(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    del of
    return _of_all(retention, tokens, "random")


@method("uniform", "every k-th token, a baseline", None, "before", _SHARE, _TOKENS)
def uniform(of: Setting, retention: float | None, tokens: int | None) -> Schedule:
    del of
    return _of_all(retention, tokens, "uniform")


@method(
    *("fewer-frames", "fewer frames, a baseline", None, "before"),
    Parameter("retention", "share", "share of the frames that are encoded", 0.25, scales="up"),
    note="The vision tower never sees the other frames, so their time is saved there too.",
    video=True,
)
def fewer_frames(of: Setting, retention: float) -> Schedule:
    groups = max(1, round(of.groups * retention))
    return Schedule(sample=Sample(groups * of.group_frames))


@method(
    *("low-resolution", "lower resolution, a baseline", None, "before"),
    Parameter("retention", "share", "share of a frame's tokens kept, at most", 0.25, scales="up"),
    note="Means of the parts of each frame's square grid, after the vision tower, which sees all "
    "pixels. The count is the next smaller square.",
)
def lower_resolution(of: Setting, retention: float) -> Schedule:
    side = max(1, math.isqrt(int(of.group_tokens * retention)))
    return Schedule(select=Select(tokens_per_frame=side * side, by="pooled-grid"))
