"""The command aim-runtime campaign, by a rehearsal."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from aim_runtime.campaigns import campaign as module
from aim_runtime.campaigns import stand_in
from aim_runtime.cli.main import app
from aim_runtime.errors import MeasurementError


def invoke(*arguments):
    return CliRunner().invoke(app, ["campaign", *map(str, arguments)])


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    facts = stand_in.environment()
    monkeypatch.setattr(stand_in, "environment", lambda: facts)


def test_a_rehearsal_runs_the_plan_and_a_second_call_goes_on(tmp_path):
    command = ("--minutes", 3, "--out", tmp_path, "--rehearsal", "--hardware", "a100-sxm4-80gb")
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "steps are left" in result.stderr
    assert max(map(len, result.stderr.splitlines())) <= 80
    assert f"{tmp_path / 'campaign.json'}:" in result.stdout
    first = json.loads((tmp_path / "campaign.json").read_text())["rows"]
    rows = json.loads(invoke(*command, "--format", "json").stdout)
    assert {row["status"] for row in rows} == {"done"}
    assert all(row["seconds"] > 0 and row["predicted_seconds"] > 0 for row in rows)
    later = json.loads((tmp_path / "campaign.json").read_text())["rows"]
    assert later[: len(first)] == first and len(later) > len(first)
    plan = json.loads(
        invoke("--minutes", 3, "--out", tmp_path, "--dry-run", "--hardware", "a100-sxm4-80gb",
               "--format", "json").stdout
    )  # fmt: skip
    done = {(row["step"], row.get("visit")) for row in rows if row.get("step")}
    assert not {row["step"] for row in plan if row.get("visit", 1) == 1} & {row for row, _ in done}


def test_ctrl_c_is_told_and_ends_with_its_own_status(tmp_path, monkeypatch):
    def struck(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stand_in.StandIn, "prefill", struck)
    result = invoke("--minutes", 3, "--out", tmp_path, "--rehearsal")
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr
    steps = json.loads((tmp_path / "campaign.json").read_text())["steps"]
    assert [step["status"] for step in steps] == ["stopped"]


def test_what_is_missing_or_unknown_is_refused(tmp_path):
    result = invoke("--minutes", 3)
    assert isinstance(result.exception, MeasurementError) and "--out" in str(result.exception)
    result = invoke("--minutes", 3, "--out", tmp_path, "--attention", "flashy")
    assert "cudnn, efficient, flash, math" in str(result.exception)
    result = invoke("--minutes", 3, "--out", tmp_path, "--rehearsal", "--hardware", "cpu-generic")
    assert "for whose kernels there is a calibration" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_as_a_table(tmp_path):
    result = invoke("--minutes", 2, "--dry-run", "--hardware", "h100-sxm")
    assert result.exit_code == 0, result.output
    assert "32 frames + 100 text tokens, eager" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "no predictions were written" in result.stderr
    assert max(map(len, result.stderr.splitlines())) <= 80
    assert module.PREDICTIONS not in [path.name for path in tmp_path.iterdir()]


def test_a_campaign_needs_no_video_decoder(tmp_path):
    """A machine for measurements may lack av, which only reading a video needs."""
    script = (
        "import sys; sys.modules['av'] = None\n"
        "from aim_runtime.cli.main import app\n"
        "import aim_runtime.campaigns.runner\n"
        f"app(['campaign', '--minutes', '1', '--rehearsal', '--out', {str(tmp_path)!r}])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "campaign.json").exists()
