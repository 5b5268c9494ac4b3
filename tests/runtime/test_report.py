"""The report of a campaign, on rows whose truth is known."""

import json
import shutil

import pytest

from aim_cost.devices.hardware import load_hardware
from aim_cost.schedules.schedule import Schedule
from aim_runtime.campaigns import stand_in as module
from aim_runtime.campaigns.campaign import run_campaign
from aim_runtime.campaigns.errors import drifts, error_lines, gains
from aim_runtime.campaigns.prediction import Way
from aim_runtime.campaigns.predictions_file import PREDICTIONS, PredictionsFile
from aim_runtime.campaigns.report import read_report
from aim_runtime.campaigns.stand_in import StandIn
from aim_runtime.campaigns.step import KernelStep
from aim_runtime.campaigns.steps import fit_schedules, held_out_schedules
from aim_runtime.validation.agreement import errors_of
from tests.runtime.rehearsed import SLOWER, invoke, steps

REHEARSAL = "A rehearsal: no device ran, every time is the model's own with noise."


@pytest.fixture(scope="module")
def whole(folder):
    return read_report(folder)


def test_every_label_reads_back():
    for schedule in (*fit_schedules(28), *held_out_schedules(28), Schedule()):
        assert Schedule.read(schedule.label(), "row") == schedule


def test_rows_are_held_out_by_their_schedule(whole):
    rows = whole.rows
    assert len(rows) == 10 + 4 + 10 + 1 + 10 + 2
    for row in rows:
        schedules = held_out_schedules(row.key.run.layers)
        assert row.held_out == (row.key.run.schedule in schedules)
        priced = row.key.run.execution != "masked"
        assert row.beforehand is (True if priced else None)
        assert bool(row.compared) == priced


def test_errors_are_those_that_were_put_in(whole):
    lines = error_lines(whole.rows)
    assert list(dict.fromkeys(line.way for line in lines)) == list(Way)
    public = [line for line in lines if line.way is Way.public]
    assert [(line.held_out, line.rows) for line in public] == [(False, 18), (True, 18)]
    for line in public:
        assert line.errors.mape == pytest.approx(1 - 1 / SLOWER)
        assert line.errors.bias == pytest.approx(1 / SLOWER - 1)
        assert line.errors.p95 == pytest.approx(1 - 1 / SLOWER)
        assert line.kendall_tau == pytest.approx(1, abs=0.1)  # the launches of the 0.5B are equal
        assert line.attention_backend == "cudnn" and line.beforehand
    datasheet = [line for line in lines if line.way is Way.datasheet]
    assert all(line.errors.bias < 1 / SLOWER - 1 and line.in_band is None for line in datasheet)
    viewer = [line for line in lines if line.way is Way.llm_viewer]
    assert sum(line.rows for line in viewer) == 36 - 4  # a graph has no time of the LLM
    own = [line for line in lines if line.way is Way.own]
    assert sum(line.rows for line in own) == 26  # the 0.5B has no kernel table
    assert all(abs(line.errors.bias - (1 / SLOWER - 1)) < 0.03 for line in own)


def test_gains_are_over_the_eager_prefill_without_reduction(whole):
    rows = whole.rows
    found = gains(rows)
    assert len(found) == len(rows) - 2 - 3  # repeats and baselines

    def of(execution, schedule, frames=32):
        return next(
            gain
            for gain in found
            if (gain.row.key.run.execution, gain.row.key.run.workload.frames) == (execution, frames)
            and gain.row.key.run.schedule == schedule
        )

    plain = rows[0]
    graph = of("cuda-graph", Schedule())
    assert graph.ttft_speedup == pytest.approx(plain.ttft_s / graph.row.ttft_s)
    assert (graph.flop_ratio, graph.llm_speedup) == (1, None)
    both = of("eager", held_out_schedules(28)[1])
    assert both.flop_ratio > 1 and both.ttft_speedup > 2
    assert both.memory_error == pytest.approx(0)
    spent = sum(both.row.measured.phase_s[name] for name in ("merge", "importance"))
    assert both.reduction_share == pytest.approx(spent / both.row.ttft_s)
    masked = of("masked", held_out_schedules(28)[1])
    assert masked.flop_ratio is None and masked.ttft_speedup < both.ttft_speedup


def test_the_repeat_stands_beside_the_first_time(whole):
    found = drifts(whole.rows)
    assert len(found) == 2
    for drift in found:
        assert drift.change == pytest.approx(0, abs=1e-9)
        assert drift.first.ttft_s == drift.to_row()["ttft_s"]


def test_the_command(folder, tmp_path):
    picture = tmp_path / "report.png"
    result = invoke(folder, "--plot", picture)
    for text in ("held out", "public tables", "own kernels", "The same work later", "Decoding"):
        assert text in result.stdout
    assert "stand-in for h100-sxm" in result.stdout
    assert "transformers" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(invoke(folder, "--format", "json").stdout)
    assert len(found["rows"]) == 37 and len(found["decode"]) == 2
    assert found["notes"] == [
        "A rehearsal: no device ran, every time is the model's own with noise."
    ]
    (both,) = {
        line["rows"] for line in found["errors"]
        if line["way"] == "public tables" and line["held_out"]
    }  # fmt: skip
    assert both == 18
    lines = invoke(folder, "--format", "csv").stdout.splitlines()
    assert len(lines) == 1 + 37


def test_predictions_made_after_the_rows_are_refused(folder, whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / PREDICTIONS).unlink()
    setting = StandIn(load_hardware("h100-sxm")).setting
    assert PredictionsFile(copy / PREDICTIONS).add(steps(), setting, None) > 36
    found = read_report(copy)
    assert found.refused == 36
    assert error_lines(found.rows) == []
    text = " ".join(invoke(copy).stdout.split())
    assert "36 rows had no prediction from before they were timed: they are left out" in text
    late = read_report(copy, afterwards=True)
    lines = error_lines(late.rows)
    assert {line.beforehand for line in lines} == {False}
    same = [line for line in error_lines(whole.rows) if line.way is Way.public]
    again = [line for line in lines if line.way is Way.public]
    assert [line.errors.mape for line in again] == pytest.approx(
        [line.errors.mape for line in same]
    )
    text = " ".join(invoke(copy, "--afterwards").stdout.split())
    assert "held out*" in text and "made AFTERWARDS" in text


def test_only_the_rows_that_are_older_than_their_prediction_are_refused(changed):
    def edit(tree):
        for row in tree["rows"]:
            if row["step_number"] == 0:
                row["begun_at"] = "2000-01-01T00:00:00.000+00:00"

    found = read_report(changed(edit))
    assert found.refused == 10
    assert {row.beforehand for row in found.rows} == {True, False, None}
    assert all(not row.compared for row in found.rows if row.beforehand is False)


def test_a_noisy_rehearsal_is_inside_its_band(tmp_path, monkeypatch):
    """Kills and repeats included: what CI sees of a campaign is what a GPU will give."""
    facts = module.environment()
    monkeypatch.setattr(module, "environment", lambda: facts)
    chosen = [step for step in steps() if not isinstance(step, KernelStep)]
    for seed in range(4):
        ticks = 0

        def strike(_now, seed=seed):
            nonlocal ticks
            ticks += 1
            if ticks == 70 * (seed + 1):
                raise KeyboardInterrupt

        device = StandIn(load_hardware("h100-sxm"), seed=seed, on_tick=strike)
        try:
            run_campaign(chosen, tmp_path, device, minutes=60)
        except KeyboardInterrupt:
            assert seed < 3
    found = read_report(tmp_path)
    assert found.refused == found.untimed == 0
    errors = [row.compared[Way.public].error for row in found.rows if row.compared]
    assert errors_of(errors).mape < 0.02
    assert all(line.in_band > 0.9 for line in error_lines(found.rows) if line.way is Way.public)
