"""What a report leaves out, counts, names or refuses, by what the files say."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from aim_cost import Case, Execution
from aim_runtime.campaigns.errors import error_lines, gains
from aim_runtime.campaigns.file import CAMPAIGN
from aim_runtime.campaigns.prediction import Way
from aim_runtime.campaigns.predictions_file import PREDICTIONS
from aim_runtime.campaigns.report import read_report, write_tables
from aim_runtime.cli.main import app
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.environment import GpuState
from tests.runtime.rehearsed import as_measured, invoke


def test_rows_that_were_never_timed_are_counted_and_left_out(changed):
    def edit(tree):
        for row in tree["rows"][:3]:
            row |= {"ttft_s": None, "ttft_low_s": None, "ttft_high_s": None, "repeats": 0}

    copy = changed(edit)
    found = read_report(copy)
    assert found.untimed == 3
    assert len(found.rows) == 37 - 3
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


@pytest.mark.parametrize(
    ("part", "name", "value", "match"),
    [
        ("rows", "step_number", 99, "step_number"),
        ("rows", "step_number", "0", "step_number"),
        ("rows", "step_number", -1, "step_number"),
        ("kernels", "step_number", 99, "step_number"),
        ("rows", "attention_backend", {"a": 1}, "unhashable"),
        ("rows", "hardware", [], "unhashable|list"),
    ],
)
def test_refuses_rows_that_no_step_has_made(changed, part, name, value, match):
    def edit(tree):
        tree[part][0][name] = value

    with pytest.raises(MeasurementError, match=f"expected a campaign in the format.*({match})"):
        read_report(changed(edit))


@pytest.mark.parametrize(("version", "more"), [("5.17.0", True), ("5.18.1", False)])
def test_memory_is_predicted_for_the_transformers_of_the_row(changed, version, more):
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
