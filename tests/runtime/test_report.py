"""The report of a campaign, on rows whose truth is known: they are made by the model itself."""

import json

import pytest
from typer.testing import CliRunner

from aim_cost.estimate import estimate
from aim_cost.hardware import load_hardware
from aim_cost.model import load_model_spec
from aim_cost.schedule import Schedule
from aim_cost.timing.calibration import load_calibration
from aim_cost.workload import Execution, Workload
from aim_runtime.campaign import PREFILL, fit_schedules, held_out_schedules
from aim_runtime.campaign_report import error_rows, joined_rows, speedup_rows
from aim_runtime.cli import app
from aim_runtime.errors import MeasurementError
from aim_runtime.measure import read_rows

MODEL = "llava-onevision-qwen2-0.5b"
SLOWER = 1.1


def measured(schedule, execution="eager", frames=8):
    """A row as the clock would give it if the public calibration were exact but 10 % too fast."""
    spec, workload = load_model_spec(MODEL), Workload(frames=frames, text_tokens=100)
    mode = "eager" if execution == "masked" else execution
    found = estimate(
        *(spec, workload, schedule, load_hardware("h200-sxm"), Execution(mode=mode)),
        calibration=load_calibration("h200-sxm"),
    )
    times = {} if mode != "eager" else {"llm.time_s": SLOWER * found.time("llm").time_s}
    return {
        **{"model": MODEL, "layers": 24, "vision_layers": 26, "hardware": "NVIDIA H200"},
        **{"dtype": "bfloat16", "frames": frames, "text_tokens": 100, "batch": 1},
        **{"execution": execution, "scoring": "torch", "schedule": schedule.label()},
        **{"merge.time_s": 0.001, "importance.time_s": 0.002, "vision.time_s": 0.01},
        "ttft_s": SLOWER * found.ttft_s,
        "peak_memory_bytes": 2 * found.memory.peak_bytes,
        "repeats": 10,
        "error": None,
        **times,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    schedules = (Schedule(), *fit_schedules(24), *held_out_schedules(24))
    rows = [measured(schedule) for schedule in schedules]
    rows += [measured(schedule, "cuda-graph") for schedule in schedules[:2]]
    rows += [measured(schedules[3], "masked"), rows[0] | {"frames": 16, "error": "no memory"}]
    folder = tmp_path_factory.mktemp("campaign")
    (folder / PREFILL).write_text(json.dumps({"environment": {}, "rows": rows}))
    return folder


def test_every_label_reads_back():
    for schedule in (*fit_schedules(28), *held_out_schedules(28), Schedule()):
        assert Schedule.parse(schedule.label()) == schedule


def test_rows_of_before_the_words_had_names_are_held_out_too(folder, tmp_path):
    content = json.loads((folder / PREFILL).read_text())
    labels = [row["schedule"] for row in content["rows"]]
    for row in content["rows"]:
        row["schedule"] = row["schedule"].replace(" score=", "/").replace("frame:", "tokens:")
    assert [row["schedule"] for row in content["rows"]] != labels
    (tmp_path / PREFILL).write_text(json.dumps(content))
    assert [row["schedule"] for row in read_rows(tmp_path / PREFILL)] == labels
    held_out = [[row["held_out"] for row in joined_rows(path)] for path in (folder, tmp_path)]
    assert held_out[0] == held_out[1]


def test_rows_are_held_out_by_their_schedule(folder):
    rows = joined_rows(folder)
    held_out = {schedule.label() for schedule in held_out_schedules(24)}
    assert {row["schedule"] for row in rows if row["held_out"]} == held_out
    assert not any(row["error"] for row in rows)
    assert not any(row["predictions"] for row in rows if row["execution"] == "masked")


def test_errors_are_those_that_were_put_in(folder):
    rows = error_rows(joined_rows(folder))
    public = [row for row in rows if row["predictor"] == "public tables"]
    assert [(row["split"], row["rows"]) for row in public] == [("fit", 7), ("held out", 5)]
    for row in public:
        assert row["mape"] == pytest.approx(1 - 1 / SLOWER)
        assert row["bias"] == pytest.approx(1 / SLOWER - 1)
        assert row["kendall_tau"] == 1
    roofline = [row for row in rows if row["predictor"] == "datasheet roofline"]
    assert all(row["bias"] < 1 / SLOWER - 1 and row["in_band"] is None for row in roofline)
    assert rows[0]["predictor"].startswith("LLM-Viewer")


def test_gains_are_over_the_eager_prefill_without_reduction(folder):
    rows = joined_rows(folder)
    gains = speedup_rows(rows)
    plain = next(row for row in rows if row["schedule"] == "none" and row["execution"] == "eager")
    graph = next(g for g in gains if g["schedule"] == "none" and g["execution"] == "cuda-graph")
    other = next(row for row in rows if row["schedule"] == "none" and row is not plain)
    assert graph["ttft_speedup"] == pytest.approx(plain["ttft_s"] / other["ttft_s"])
    assert graph["flop_ratio"] == 1
    both = next(g for g in gains if g["schedule"].startswith("merge 0.25, prune"))
    assert both["flop_ratio"] > 1
    assert both["memory_error"] == pytest.approx(-0.5)
    row = next(r for r in rows if r["schedule"] == both["schedule"])
    assert both["reduction_share"] == pytest.approx(0.003 / row["ttft_s"])


def test_the_command(folder, tmp_path):
    picture = tmp_path / "report.png"
    result = CliRunner().invoke(app, ["report", str(folder), "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    assert "held out" in result.output
    assert "public tables" in result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = json.loads(CliRunner().invoke(app, ["report", str(folder), "--format", "json"]).stdout)
    assert len(rows) == 13


def test_refuses_what_it_cannot_compare(folder, tmp_path):
    with pytest.raises(MeasurementError, match="measured rows"):
        joined_rows(tmp_path)
    content = json.loads((folder / PREFILL).read_text())
    rows = [row | {"hardware": "cpu"} for row in content["rows"]]
    (tmp_path / PREFILL).write_text(json.dumps(content | {"rows": rows}))
    with pytest.raises(MeasurementError, match="GPU with a profile"):
        joined_rows(tmp_path)
