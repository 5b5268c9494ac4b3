"""Configs with wrong fields: one AimError that says where, or a price that is a number."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aim_cost import AimError, Case, ModelSpec, Schedule, Workload
from aim_cost.errors import SpecError
from aim_cost.models.class_defaults import CLASS_DEFAULTS
from aim_cost.models.families import FAMILIES
from aim_cost.models.parts import read_parts

FOLDER = Path(__file__).parents[1] / "configs"
NAMES = (
    *("llava-onevision-qwen2-0.5b-ov-hf", "llava-next-video-7b-32k-hf"),
    *("qwen2-vl-7b-instruct-awq", "qwen2.5-vl-3b-by-5"),
)
CONFIGS = [json.loads((FOLDER / f"{name}.json").read_text())["config"] for name in NAMES]

NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([64, 100, 128, 336, 1000, 1024, 4096, 2**14, 2**20, 2**31, 2**63, 10**30]),
)
OTHERS = st.sampled_from(
    [
        *(None, True, False, 1.5, 1e30, math.nan, math.inf, "", "7", "silu", "full", "default"),
        *([], [1], [[2, 3]], [[384, 384]], [-1, 10**30], ["a"], [[]], ["sliding_attention"] * 24),
        *({}, {"model_type": "llama"}, {"type": "linear"}, {"rope_type": "yarn", "factor": 2}),
        *("llama", "mistral", "qwen2", "gemma", "siglip_vision_model", "clip_vision_model"),
    ]
)
VALUES = (NUMBERS | NUMBERS | OTHERS).map(copy.deepcopy)

MORE = {
    "": ("model_type", "quantization_config", "aim_cost", "_name_or_path"),
    "vision_config": ("model_type", "num_attention_heads"),
    "text_config": ("model_type", "rope_scaling", "rope_parameters", "head_dim", "layer_types"),
    "quantization_config": (
        *("quant_method", "bits", "group_size", "version", "modules_to_not_convert"),
        *("load_in_4bit", "load_in_8bit", "llm_int8_skip_modules", "lm_head", "dynamic"),
    ),
}
"""Fields that are read and have no class default."""


def read_fields(config: dict[str, Any]) -> dict[str, list[str]]:
    """The fields of each section that are read."""
    parts = read_parts(config)
    found = {
        "": FAMILIES[config["model_type"]].defaults,
        "vision_config": CLASS_DEFAULTS[parts.vision.get("model_type")],
        "text_config": CLASS_DEFAULTS[parts.text.get("model_type")],
        "quantization_config": {},
    }
    return {section: [*fields, *MORE[section]] for section, fields in found.items()}


@st.composite
def broken(draw: st.DrawFn) -> dict[str, Any]:
    """A config of the hub with one to three of its fields set to something else, or gone."""
    config = copy.deepcopy(draw(st.sampled_from(CONFIGS)))
    known = read_fields(config)
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(sorted(known)))
        field = draw(st.sampled_from(known[section]))
        inner = config.get(section, config) if section else config  # Qwen's flat form
        if not isinstance(inner, dict):
            continue
        if draw(st.integers(0, 7)) == 0:
            inner.pop(field, None)
        else:
            inner[field] = draw(VALUES)
    return config


def price(config: dict[str, Any], schedules: list[Schedule]) -> None:
    """Refused by name, or priced with figures that are numbers above 0."""
    try:
        model = ModelSpec.from_hf_config(config, name="mutated")
    except SpecError:
        return
    size = {"frames": 3} if model.takes_video else {"image_tokens": model.image_tokens}
    for workload in (Workload(20, **size), Workload(20, images=((300, 500), (200, 200)))):
        for schedule in schedules:
            try:
                result = Case(model, workload, "h100-sxm").price(schedule)
                figures = (result.flops, result.ttft_s, result.memory.peak_bytes)
                figures += (result.trace.visual_tokens,)
            except AimError:
                continue
            assert all(0 < figure < math.inf for figure in figures)
            assert result.report()


WRONG = (0, 3, 25, 4096, 10**30, 1.5, None, True, "7", [], [7, 9], {})


@pytest.mark.parametrize("place", range(len(CONFIGS)), ids=NAMES)
def test_each_field_may_be_anything(place: int) -> None:
    for section, fields in read_fields(CONFIGS[place]).items():
        for field in fields:
            for value in WRONG:
                config = copy.deepcopy(CONFIGS[place])
                inner = config.get(section, config) if section else config
                if isinstance(inner, dict):
                    inner[field] = value
                    price(config, [Schedule()])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=broken())
def test_several_fields_may_be_anything(config: dict[str, Any]) -> None:
    price(config, [Schedule(), Schedule.parse("merge 0.5, prune linear:0:1")])
