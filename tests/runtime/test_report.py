"""The report of a campaign, on rows whose truth is known: a stand-in's clock is the model."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from aim_cost import Case, Execution
from aim_cost.devices.hardware import load_hardware
from aim_cost.schedules.schedule import Schedule
from aim_runtime.campaigns import stand_in as module
from aim_runtime.campaigns.campaign import run_campaign
from aim_runtime.campaigns.errors import drifts, error_lines, gains
from aim_runtime.campaigns.file import CAMPAIGN
from aim_runtime.campaigns.prediction import Way
from aim_runtime.campaigns.predictions_file import PREDICTIONS, PredictionsFile
from aim_runtime.campaigns.report import read_report, write_tables
from aim_runtime.campaigns.stand_in import StandIn
from aim_runtime.campaigns.step import KernelStep
from aim_runtime.campaigns.steps import default_steps, fit_schedules, held_out_schedules
from aim_runtime.cli.main import app
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.environment import GpuState
from aim_runtime.validation.agreement import errors_of

SLOWER = 1.1
REHEARSAL = "A rehearsal: no device ran, every time is the model's own with noise."


class SlowDevice(StandIn):
    """One tenth slower than the public calibration says, without noise."""

    def tick(self, seconds):
        return super().tick(SLOWER * seconds)


def steps():
    """7B at 32 frames eager and as graphs, its kernels, 8 frames, decoding, masked; and 0.5B."""
    chosen = default_steps()
    return [*chosen[:4], *chosen[6:9]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    device = SlowDevice(load_hardware("h100-sxm"), noise=0.0)
    run_campaign(steps(), folder, device, minutes=60)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    return read_report(folder)


@pytest.fixture
def changed(folder, tmp_path):
    """A copy of the campaign, and a function that changes its tree."""
    shutil.copytree(folder, tmp_path / "copy")

    def change(edit):
        path = tmp_path / "copy" / CAMPAIGN
        tree = json.loads(path.read_text())
        edit(tree)
        path.write_text(json.dumps(tree))
        return tmp_path / "copy"

    return change


def as_measured(tree):
    """Make rows of a device of those of a rehearsal."""
    for step in tree["steps"]:
        step["device"] = "NVIDIA H100"
        del step["environment"]["rehearsal"]
    for row in tree["rows"]:
        row["hardware"] = "NVIDIA H100"
        del row["rehearsal"]


def invoke(*arguments):
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


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


@pytest.mark.parametrize(("version", "more"), [("5.17.0", True), ("5.18.1", False)])
def test_memory_is_predicted_for_the_transformers_of_the_row(whole, changed, version, more):
    """The tower of older releases keeps the states of all its layers."""

    def edit(tree):
        for row in tree["rows"]:
            row["transformers"] = version

    found = read_report(changed(edit)).rows
    compared = [row for row in found if row.compared]
    assert compared
    for row in compared:
        run = row.key.run
        peaks = {}
        for keeps in (True, False):
            execution = Execution(scoring=run.scoring, keeps_tower_states=keeps)
            case = Case(run.model, run.workload, "h100-sxm", execution)
            peaks[keeps] = case.price(run.schedule).memory.peak_bytes
        assert row.peak_memory_bytes == peaks[more]
        if run.schedule.merge is not None:  # else the decoder needs more than the tower
            assert peaks[True] > peaks[False]


def test_an_old_prediction_says_nothing_of_older_transformers(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path, campaign = copy / PREDICTIONS, copy / CAMPAIGN
    tree = json.loads(path.read_text())
    for row in tree["predictions"]:
        row.pop("peak_memory_with_tower_states_bytes", None)
    path.write_text(json.dumps(tree))
    written = campaign.read_text()
    for version, known in (("5.24.0", True), ("5.17.0", False)):
        other = re.sub(r'"transformers": "[^"]*"', f'"transformers": "{version}"', written)
        campaign.write_text(other)
        found = [row for row in read_report(copy).rows if row.compared]
        assert {row.peak_memory_bytes is not None for row in found} == {known}
        assert all((gain.memory_error is not None) == known for gain in gains(found)
                   if gain.row.measured.peak_memory_bytes)  # fmt: skip


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


def test_rows_that_were_never_timed_are_counted_and_left_out(whole, changed):
    def edit(tree):
        for row in tree["rows"][:3]:
            row |= {"ttft_s": None, "ttft_low_s": None, "ttft_high_s": None, "repeats": 0}

    copy = changed(edit)
    found = read_report(copy)
    assert found.untimed == 3
    assert len(found.rows) == len(whole.rows) - 3
    assert "3 rows were never timed" in invoke(copy).stdout


def test_rows_to_doubt_are_counted(changed):
    def edit(tree):
        tree["rows"][0]["driver_allocations"] = 2
        tree["rows"][1]["driver_allocations"] = 0
        tree["steps"][0]["after"]["reasons"] = 0x4  # the power cap
        tree["steps"][1]["after"]["reasons"] = 0x1  # idle
        tree["steps"][2] |= {"status": "failed", "error": "RuntimeError: no\ntrace"}
        tree["rows"][5] |= {"error": "OutOfMemoryError: all", "ttft_s": None}

    notes = json.loads(invoke(changed(edit), "--format", "json").stdout)["notes"]
    assert notes[1].startswith("1 rows hold runs that asked the driver for memory")
    assert notes[2].startswith("9 rows belong to steps around which the GPU held its clock down")
    assert [note.split(":")[0] for note in notes[3:]] == ["Failed"] * 2
    assert "trace" not in " ".join(notes)


def test_clocks_that_are_held_down():
    assert [GpuState(reasons=bits).throttled for bits in (None, 0, 1, 2, 3, 4, 0x21)] == [
        *[False] * 5,
        *[True] * 2,
    ]


def test_tables_that_no_calibration_fits_are_named(changed):
    def edit(tree):
        for name in tree["kernels"][0]["files"]:
            if name.endswith(".csv"):
                tree["kernels"][0]["files"][name] = "m,n,k\n1,2,3\n"

    found = read_report(changed(edit))
    assert len(found.unfitted) == 1
    assert not any(line.way is Way.own for line in error_lines(found.rows))


def test_tables_are_those_that_aim_cost_calibrate_reads(changed, tmp_path):
    from aim_cost.cli.main import app as cost

    (tables,) = write_tables(changed(as_measured), tmp_path)
    assert tables.name == "llava-onevision-qwen2-7b-cudnn"
    out = tmp_path / "own.yaml"
    command = ["calibrate", "--kernels", str(tables), "--out", str(out)]
    result = CliRunner().invoke(cost, [*command, "--hardware", str(tables / "hardware.yaml")])
    assert result.exit_code == 0, result.output
    assert out.exists()


def test_no_table_of_a_rehearsal_is_written(folder, changed, tmp_path):
    """A calibration made of them would be the model's own, under the name of a measurement."""

    def unmarked(tree):  # as files were before there was the marker
        for step in tree["steps"]:
            del step["environment"]["rehearsal"]
        for row in tree["rows"]:
            del row["rehearsal"]

    for campaign in (folder, changed(unmarked)):
        out = tmp_path / "tables"
        result = CliRunner().invoke(app, ["report", str(campaign), "--tables", str(out)])
        assert isinstance(result.exception, MeasurementError)
        assert "without --rehearsal" in str(result.exception)
        assert not out.exists()
        assert read_report(campaign).is_rehearsal


def test_rows_of_a_device_say_nothing_of_a_rehearsal(changed):
    campaign = changed(as_measured)
    found = read_report(campaign)
    assert not found.is_rehearsal
    assert not any("rehearsal" in row.to_row() for row in found.rows)
    assert json.loads(invoke(campaign, "--format", "json").stdout)["notes"] == []


def test_a_missing_campaign_is_called_missing(tmp_path):
    for folder, got in ((tmp_path, "no such file"), (tmp_path / "nowhere", "no such folder")):
        for ask in (read_report, lambda folder: write_tables(folder, tmp_path)):
            with pytest.raises(MeasurementError, match=rf"{CAMPAIGN}: .*got {got}"):
                ask(folder)


def test_refuses_what_it_cannot_compare(changed):
    with pytest.raises(MeasurementError, match="rows that were timed"):
        read_report(changed(lambda tree: tree["rows"].clear()))


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
