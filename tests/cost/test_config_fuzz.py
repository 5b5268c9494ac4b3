"""Configs with wrong fields: one AimError that says where, or a price that is a number."""

import copy
import json
import math
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aim_cost import AimError, Case, ModelSpec, Schedule, Workload, preset_config
from aim_cost.errors import SpecError
from aim_cost.models.model import preset_names

_FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.json"))
CONFIGS = {path.stem: json.loads(path.read_text())["config"] for path in _FILES}
CONFIGS |= {name: preset_config(name) for name in preset_names()}

WRONG = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 7, 64, 1000, 2**20, 2**31, 2**63, 10**30, 1.5, 1e30]),
    st.sampled_from(["", "7", "silu", "full", "default", "sliding_attention", "x" * 50]),
    st.sampled_from([None, True, False, math.nan, math.inf]),
    st.sampled_from([[], [1], [[2, 3]], [-1, 10**30], ["a"], {}, {"model_type": "llama"}, [[]]]),
    st.integers(-5, 5000),
).map(copy.deepcopy)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all fields, those inside lists too, the root left out."""
    found = [path] if path else []
    if isinstance(value, dict):
        pairs: Any = value.items()
    else:
        pairs = enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += places(inner, (*path, key))
    return found


EXTRA = [
    (*section, key)
    for section, keys in {
        (): ("spatial_pool_stride", "vision_feature_layer", "image_grid_pinpoints", "aim_cost"),
        ("vision_config",): ("window_size", "patch_size", "in_channels", "vision_use_head"),
        ("text_config",): ("head_dim", "layer_types", "sliding_window", "rope_scaling"),
    }.items()
    for key in keys
]


@st.composite
def broken(draw: st.DrawFn) -> dict[str, Any]:
    config = copy.deepcopy(CONFIGS[draw(st.sampled_from(sorted(CONFIGS)))])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(config) + EXTRA))
        *parents, last = path
        inner = config
        for key in parents:
            inner = inner.get(key) if isinstance(inner, dict) else inner[key]
            if not isinstance(inner, dict | list):
                break
        if isinstance(inner, list) and isinstance(last, int) and last < len(inner):
            inner[last] = draw(WRONG)
        elif isinstance(inner, dict):
            if draw(st.booleans()) and last in inner:
                del inner[last]
            else:
                inner[last] = draw(WRONG)
    return config


def workloads(model: ModelSpec) -> list[Workload]:
    if model.takes_video:
        return [Workload(20, frames=3), Workload(20, images=((300, 500), (200, 200)))]
    return [Workload(20, image_tokens=model.image_tokens), Workload(20, images=((300, 500),))]


SCHEDULES = [Schedule(), Schedule.parse("merge 0.5, prune linear:0:1")]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=broken())
def test_a_mutated_config_is_priced_or_refused(config: dict[str, Any]) -> None:
    try:
        model = ModelSpec.from_hf_config(config, name="mutated")
    except SpecError:
        return
    for workload in workloads(model):
        for schedule in SCHEDULES:
            try:
                result = Case(model, workload, "h100-sxm").price(schedule)
                figures = (result.flops, result.ttft_s, result.memory.peak_bytes)
            except AimError:
                continue
            assert all(0 < figure < math.inf for figure in figures)
            assert result.report()
