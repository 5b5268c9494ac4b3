"""What a campaign will run: its order, its length, and what fits."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from aim_cost.devices.hardware import load_hardware
from aim_cost.schedules.schedule import Schedule
from aim_runtime.campaigns.campaign import agenda_of
from aim_runtime.campaigns.cost import Costs, Overheads, Warmth
from aim_runtime.campaigns.plan import Agenda, plan
from aim_runtime.campaigns.prediction import Prediction
from aim_runtime.campaigns.setting import Setting
from aim_runtime.campaigns.step import DecodeStep, KernelStep, PrefillStep
from aim_runtime.campaigns.steps import (
    MODELS,
    aim_schedule,
    default_steps,
    fit_schedules,
    held_out_schedules,
    repeat_of,
)
from aim_runtime.cli.main import app
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.attention_backend import AttentionBackend
from aim_runtime.measurement.run_kind import RunKind

LARGE, SMALL = MODELS
MINUTES = (2, 5, 9, 15, 30)


def setting_of(hardware="h100-sxm", **options):
    dtype = "float16" if hardware == "t4" else "bfloat16"
    return Setting.presumed(load_hardware(hardware), dtype, **options)


def planned(minutes, hardware="h100-sxm"):
    agenda = agenda_of(default_steps(), None, setting_of(hardware))
    return plan(agenda, 60 * minutes)


def prefills(steps, **facts):
    return [
        step
        for step in steps
        if isinstance(step, PrefillStep) and facts.items() <= vars(step).items()
    ]


@pytest.mark.parametrize("minutes", MINUTES)
@pytest.mark.parametrize("hardware", ["h100-sxm", "a100-sxm4-80gb", "rtx-4090"])
def test_a_plan_keeps_to_its_minutes_and_its_order(minutes, hardware):
    found = planned(minutes, hardware)
    steps = [one.step for one in found]
    assert 0 < sum(one.seconds for one in found) < 60 * minutes
    assert all(one.seconds > 0 for one in found)
    assert len(set(steps)) == len(steps)
    order = default_steps()
    for number, step in enumerate(steps):
        if isinstance(step, PrefillStep) and step.visit == 1:
            shorter = [
                other
                for other in prefills(order[: order.index(step)], execution=step.execution)
                if other.frames < step.frames
            ]
            assert set(shorter) <= set(steps[:number])
    again = [step for step in steps if isinstance(step, PrefillStep) and step.visit > 1]
    if order[0] in steps:
        assert steps[0] == order[0]
        assert again == [steps[-1]] == [repeat_of(order[0], 2)] or len(steps) == 1
    else:
        assert not again


def test_more_minutes_never_run_fewer_rows_of_a_fast_gpu():
    counts = [sum(one.step.row_count for one in planned(minutes)) for minutes in MINUTES]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


def test_nine_minutes_of_an_h100_hold_all_that_matters():
    result = CliRunner().invoke(
        app,
        ["campaign", "--minutes", "9", "--dry-run", "--hardware", "h100-sxm", "--format", "json"],
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert 300 < sum(row["seconds"] for row in rows) < 540
    first = rows[0]
    assert (first["model"], first["frames"], first["execution"]) == (LARGE, 32, "eager")
    assert first["rows"] == len(first["schedules"]) == 10
    longest = min(number for number, row in enumerate(rows) if row["frames"] == 192)
    assert {8, 128} <= {row["frames"] for row in rows[:longest] if row["execution"] == "eager"}
    found = {(row["model"], row["execution"]) for row in rows}
    kinds = ("eager", "cuda-graph", "kernels", "decode", "masked")
    assert found == {(model, kind) for model in MODELS for kind in kinds}
    last = rows[-1]
    assert [last[name] for name in ("model", "frames", "execution", "visit")] == [
        *(LARGE, 32, "eager"),
        2,
    ]
    assert [row["visit"] for row in rows[:-1] if "visit" in row] == [1] * (
        len(rows) - 1 - sum("visit" not in row for row in rows)
    )


def test_no_time_for_anything_is_an_empty_plan():
    assert planned(0.1) == []


def test_a_step_that_does_not_fit_leaves_its_place_to_the_next_that_does():
    costs = Costs(setting_of())
    long, short = default_steps()[4], default_steps()[3]
    budget = costs.seconds(short, Warmth()) + 1
    assert costs.seconds(long, Warmth()) > budget
    assert [one.step for one in plan(Agenda([long, short], None, costs), budget)] == [short]


def test_a_longer_video_waits_for_the_shorter_ones_before_it():
    costs = Costs(setting_of())
    order = default_steps()
    shorter = prefills(order, model=LARGE, frames=128, execution="eager")[0]
    longer = prefills(order, model=LARGE, frames=192)[0]
    budget = costs.seconds(longer, Warmth()) + 1
    assert costs.seconds(shorter, Warmth()) > budget
    assert plan(Agenda([shorter, longer], None, costs), budget) == []
    graph = replace(longer, execution=RunKind.CUDA_GRAPH)  # another way to run waits for none
    budget = costs.seconds(graph, Warmth()) + 1
    steps = [replace(shorter, rounds=100), graph]
    assert [one.step for one in plan(Agenda(steps, None, costs), budget)] == [graph]


def test_imports_that_are_over_cost_nothing():
    costs, step = Costs(setting_of()), default_steps()[0]
    seconds = [
        Agenda([step], None, costs, started=started).next(1e3).seconds for started in (False, True)
    ]
    assert seconds[0] - seconds[1] == pytest.approx(Overheads().start_s)


def test_what_memory_cannot_hold_is_left_out():
    steps = [one.step for one in planned(600, "rtx-4090")]
    assert max(step.frames for step in prefills(steps, model=SMALL)) == 192
    whole = [step for step in prefills(steps, model=LARGE) if Schedule() in step.schedules]
    assert max(step.frames for step in whole) == 128
    assert {step.model for step in [one.step for one in planned(600, "t4")]} == {SMALL}
    known = load_hardware("l4")
    memory = replace(known.peak.memory_bytes, value=10**9)
    small = replace(known, peak=replace(known.peak, memory_bytes=memory))
    with pytest.raises(MeasurementError, match="room for the smallest step"):
        agenda_of(default_steps(), None, Setting.presumed(small, "bfloat16"))


def test_plans_of_cudnn_are_paid_once_for_each_length():
    step = default_steps()[0]
    cudnn, flash = (
        Costs(setting_of(attention=backend))
        for backend in (AttentionBackend.cudnn, AttentionBackend.flash)
    )
    lengths = {
        tokens
        for schedule in step.schedules
        for tokens in schedule.resolve(step.spec, step.workload).attention_tokens
    }
    more = cudnn.seconds(step, Warmth()) - flash.seconds(step, Warmth())
    assert more == pytest.approx(Overheads().plan_s * (len(lengths) + 1))  # and the tower's
    again = cudnn.seconds(step, cudnn.after(step, Warmth()))
    assert again == pytest.approx(flash.seconds(step, flash.after(step, Warmth())))


def test_decoding_takes_no_plans_unless_they_are_asked_for():
    step = next(step for step in default_steps() if isinstance(step, DecodeStep))
    assert setting_of().backend(step) is AttentionBackend.flash
    asked = setting_of(attention=AttentionBackend.cudnn)
    assert asked.backend(step) is AttentionBackend.cudnn
    costs = [Costs(one).seconds(step, Warmth()) for one in (setting_of(), asked)]
    assert costs[1] > costs[0] + 10


@pytest.mark.parametrize("layers", [24, 28])
def test_what_is_held_out_is_in_no_fit(layers):
    fit, held_out = fit_schedules(layers), held_out_schedules(layers)
    assert not set(fit) & set(held_out)
    assert len(held_out) >= len(fit)
    assert aim_schedule(layers) in held_out


def test_steps_differ_and_each_has_keys_of_its_own():
    steps, setting = default_steps(), setting_of()
    keys = [key for step in steps for key in setting.row_keys(step)]
    assert len(set(keys)) == len(keys) == sum(step.row_count for step in steps)
    assert len({step.label for step in steps if not isinstance(step, PrefillStep)}) == 4
    assert {type(step) for step in steps} == {PrefillStep, DecodeStep, KernelStep}
    repeat = repeat_of(steps[0], 3)
    assert set(repeat.schedules) == {Schedule(), aim_schedule(28)}
    assert not set(setting.row_keys(repeat)) & set(keys)


def test_a_dry_run_writes_what_the_model_says_of_each_row(tmp_path):
    def dry_run(*more):
        command = f"campaign --minutes 9 --dry-run --out {tmp_path} --format json".split()
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    dry_run("--hardware", "h100-sxm")
    (path,) = tmp_path.iterdir()
    content = path.read_text()
    tree = json.loads(content)
    found = [Prediction.of(row) for row in tree["predictions"]]
    assert [one.to_row() for one in found] == tree["predictions"]
    setting = setting_of()
    wanted = {key.run for step in default_steps() for key in setting.row_keys(step)}
    assert {one.run for one in found} == wanted and len(found) == len(wanted)
    for one in found:
        assert len(one.calibration_sha256) == 64
        assert one.calibration == one.hardware == "h100-sxm"
        assert one.predicted_at > "2020"
        priced = one.run.execution in ("eager", "cuda-graph")
        assert bool(one.figures) == priced
        if priced:
            figures = one.figures
            assert figures.ttft.low_s < figures.ttft.time_s < figures.ttft.high_s
            assert figures.flops > 0
            assert figures.peak_memory_bytes > figures.weights_bytes
            parts = ("vision", "merge", "llm", "importance")
            spent = sum(figures.times[part].time_s for part in parts)
            assert spent == pytest.approx(figures.ttft.time_s)
    dry_run("--hardware", "h100-sxm")
    assert path.read_text() == content  # a prediction keeps its date
    result = CliRunner().invoke(
        app, f"campaign --minutes 9 --dry-run --hardware a100-sxm4-80gb --out {tmp_path}".split()
    )
    assert isinstance(result.exception, MeasurementError)
    assert "another folder for another GPU" in str(result.exception)
