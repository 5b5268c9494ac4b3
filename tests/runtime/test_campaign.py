"""A campaign resumes, keeps everything, and never lets a fit see what is held out."""

import json

import pytest

from aim_cost.schedule import Schedule
from aim_runtime import campaign as module
from aim_runtime.campaign import (
    DECODE,
    KERNELS,
    PREFILL,
    Step,
    fit_schedules,
    h200_steps,
    held_out_schedules,
    run_campaign,
    run_suite,
)
from aim_runtime.errors import MeasurementError
from tests.runtime.test_validate import tiny_config

PAIR = (Schedule(), Schedule.parse("merge frame:3, prune linear:1:3"))


@pytest.fixture
def steps(tmp_path):
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(tiny_config()))
    kinds = ("eager", "masked", "decode")
    return [Step(str(config), 2, 6, PAIR, kind) for kind in kinds]


@pytest.fixture
def kernels(monkeypatch):
    """Stand in for the microbenchmark, which takes as long as it is told and has its own tests."""
    made = []

    def fake(spec, workload, folder, device, dtype, seconds):
        made.append((spec.name, workload.frames))
        folder.mkdir(parents=True)
        (folder / module.PROFILE_FILE).write_text("")

    monkeypatch.setattr(module, "microbench", fake)
    return made


def run(steps, folder, **options):
    return run_campaign(steps, folder, device="cpu", dtype="float32", repeats=1, **options)


def test_every_step_leaves_rows_and_nothing_is_measured_twice(steps, kernels, tmp_path):
    out = tmp_path / "out"
    rows = run(steps, out)
    assert [row["execution"] for row in rows] == [s.execution for s in steps for _ in PAIR]
    assert not any(row["error"] for row in rows)
    assert kernels == [("tiny", 1)]
    assert {path.name for path in out.iterdir()} == {KERNELS, PREFILL, DECODE}
    assert run(steps, out) == rows


def test_a_campaign_that_stops_goes_on(steps, kernels, tmp_path, monkeypatch):
    out = tmp_path / "out"
    clock = iter([0.0, 0.0, 0.0, 100.0])  # time is up after the first step
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    first = run(steps, out, minutes=1)
    assert [row["execution"] for row in first] == ["eager"] * 2
    monkeypatch.undo()
    monkeypatch.setattr(module, "microbench", lambda *args: pytest.fail("measured again"))
    assert run(steps, out)[:2] == first
    assert len(run(steps, out)) == 6


@pytest.mark.parametrize("layers", [24, 28])
def test_what_is_held_out_is_in_no_fit(layers):
    fit, held_out = fit_schedules(layers), held_out_schedules(layers)
    assert not {s.label() for s in fit} & {s.label() for s in held_out}
    assert len(held_out) >= len(fit)


def test_the_suite_names_what_it_measures():
    steps = h200_steps()
    assert {step.frames for step in steps} == {8, 16, 32, 64, 128, 192}
    assert {step.text_tokens for step in steps} == {50, 100, 500}
    assert {step.execution for step in steps} == {"eager", "cuda-graph", "masked", "decode"}
    frames = [step.frames for step in steps if step.model.endswith("7b")]
    assert frames[-3:] == [64, 128, 192]  # the largest last
    with pytest.raises(MeasurementError, match="h200"):
        run_suite("h100", None)
