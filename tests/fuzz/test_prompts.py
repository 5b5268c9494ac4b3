"""Prompts with placeholders anywhere, patched, against the reference and torch's counter."""

from contextlib import suppress

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from aim_cost import ModelSpec, Schedule, Workload, load_hardware
from aim_cost.errors import AimError
from aim_runtime import patched
from aim_runtime.models.load import Loaded
from aim_runtime.validation.counts import check_counts
from tests.fuzz.asked import fuzzed, no_hang, one_line
from tests.fuzz.schedules import schedules
from tests.runtime.agree import check, expected
from tests.runtime.models import BUILDERS, batch_of, prompt_of
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN, tiny_llava

CPU = load_hardware("cpu-generic")
PLACEHOLDERS = (IMAGE_TOKEN, VIDEO_TOKEN)
PARTS = {
    "llava-1.5": st.one_of(st.integers(1, 6), st.just("image")),
    "next-video": st.one_of(
        st.integers(1, 6), st.sampled_from([(50, 100), (100, 40), (40, 90), "video 2", "video 3"])
    ),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models():
    return {name: build() for name, build in BUILDERS.items()}


@st.composite
def batches(draw, family, model):
    """Prompts as a processor writes them, padded on the left, and text after what is seen."""
    rows = draw(st.lists(st.lists(PARTS[family], max_size=4), min_size=1, max_size=3))
    rows = [(*row, draw(st.integers(1, 5))) for row in rows]
    return batch_of([prompt_of(model, row, seed=draw(st.integers(0, 9))) for row in rows])


cuts = st.sampled_from(
    ["none", "merge 0.5", "merge frame:4", "prune linear:1:4", "merge frame:3, prune linear:1:3",
     "merge 0.5 positions=kept, prune ratios:1,0.5,0.5,0.25", "merge frame:4 by=uniform",
     "prune linear:0:2 score=text-attention", "prune layers:6,3,1"]
)  # fmt: skip


@fuzzed(0.03)
@given(data=st.data(), family=st.sampled_from(sorted(BUILDERS)), schedule=cuts)
def test_right_prompts_run_as_the_reference_runs_them(data, family, schedule, models):
    model = models[family]
    inputs = data.draw(batches(family, model))
    schedule = Schedule.parse(schedule)
    with suppress(AimError):
        try:
            expected(model, inputs, schedule)  # where fp32 cannot tell who stays, nothing can
        except AssertionError:
            assume(False)
    with no_hang():
        try:
            check(model, inputs, schedule)
        except AimError as error:
            one_line(error)


def run(model, inputs):
    """Logits, or the error with which transformers refuses."""
    try:
        return model(**inputs).logits
    except (ValueError, IndexError, RuntimeError) as error:
        return error


@st.composite
def misplaced(draw, ids):
    """Tokens of one row moved, doubled, lost or turned into others."""
    row = ids.clone()
    for _ in range(draw(st.integers(1, 3))):
        place, other = (draw(st.integers(0, len(row) - 1)) for _ in range(2))
        match draw(st.integers(0, 3)):
            case 0:
                row[[place, other]] = row[[other, place]]
            case 1:
                row[place] = draw(st.sampled_from([*PLACEHOLDERS, 7]))
            case 2:
                row = torch.cat([row[:place], row[place + 1 :], row[place : place + 1]])
            case 3:
                row = row.roll(draw(st.integers(1, len(row))))
    return row


@fuzzed(0.05)
@given(data=st.data(), family=st.sampled_from(sorted(BUILDERS)), schedule=cuts)
def test_placeholders_anywhere(data, family, schedule, models):
    model = models[family]
    inputs = data.draw(batches(family, model))
    assume(len(inputs["input_ids"]) == 1)
    inputs["input_ids"] = data.draw(misplaced(inputs["input_ids"][0]))[None]
    bare = run(model, inputs)
    with no_hang():
        with patched(model, Schedule()):
            same = answer(model, inputs)
        with patched(model, schedule) as trace:
            reduced = answer(model, inputs)
    if isinstance(bare, Exception):
        assert isinstance(same, Exception)
        assert isinstance(reduced, Exception)
        return
    assert isinstance(same, AimError) or torch.equal(same, bare)
    if isinstance(reduced, Exception):
        return
    assert torch.isfinite(reduced).all()
    text = ~torch.isin(inputs["input_ids"][0], torch.tensor(PLACEHOLDERS))
    kept = trace.kept[-1][0]
    merged = len(inputs["input_ids"][0]) - len(trace.kept[0][0])
    assert reduced.shape[1] == len(kept)
    assert len(kept) >= int(text.sum())  # text is never dropped
    if not merged:
        assert set(text.nonzero()[:, 0].tolist()) <= set(kept.tolist())


def answer(model, inputs):
    """Logits, or the one clear error of a patch."""
    try:
        return model(**inputs).logits
    except AimError as error:
        one_line(error)
        return error


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
