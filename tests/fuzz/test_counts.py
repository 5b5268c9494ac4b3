"""Schedules on a tiny model that runs: FLOPs that torch counts are those predicted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aim_cost import ModelSpec, Schedule, Workload, load_hardware
from aim_cost.errors import AimError
from aim_runtime.models.load import Loaded
from aim_runtime.validation.counts import check_counts
from tests.fuzz.asked import fuzzed, no_hang, one_line
from tests.fuzz.schedules import schedules
from tests.runtime.support import tiny_llava

CPU = load_hardware("cpu-generic")


@fuzzed(0.02)
@given(
    schedule=schedules,
    frames=st.integers(1, 4),
    text_tokens=st.integers(1, 8),
    batch=st.integers(1, 2),
)
def test_flops_are_those_that_torch_counts(schedule, frames, text_tokens, batch, counted_model):
    workload = Workload(text_tokens, frames=frames, batch=batch)
    with no_hang():
        try:
            (row,) = check_counts(counted_model, workload, [Schedule.of(schedule)], CPU)
        except AimError as error:
            one_line(error)
            return
    assert row.differences == ()


@pytest.fixture(scope="module")
def counted_model():
    model = tiny_llava(layers=4)
    spec = ModelSpec.from_hf_config(model.config.to_dict(), name="tiny")
    return Loaded(model, spec, model.config, torch.device("cpu"), "float32", None)
