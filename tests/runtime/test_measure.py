"""Measured prefills: complete, in turn, and safe from what goes wrong on the way."""

import pytest
import torch

from aim_cost.case import estimate
from aim_cost.devices.hardware import load_hardware
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import Workload
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement import measure as module
from aim_runtime.measurement.measure import measure
from aim_runtime.measurement.row_file import read_rows

WORKLOAD = Workload(text_tokens=11, frames=3, batch=2)
NONE, MERGE, BOTH = (
    Schedule(),
    Schedule.parse("merge frame:5"),
    Schedule.parse("merge frame:5, prune linear:1:4"),
)
ALL = [NONE, MERGE, BOTH]


def test_a_row_holds_what_was_asked_and_what_was_measured(loaded):
    rows = measure(loaded, WORKLOAD, ALL, repeats=3, warmup=0)
    assert [row.key.run.schedule for row in rows] == ALL
    for row, schedule in zip(rows, ALL, strict=True):
        trace = schedule.resolve(loaded.spec, WORKLOAD)
        assert row.tokens_per_layer == trace.attention_tokens
        run = row.key.run
        assert (run.workload, run.dtype, run.layers) == (WORKLOAD, "float32", 6)
        assert (row.repeats, row.error) == (3, None)
        assert 0 < row.ttft_low_s <= row.ttft_s <= row.ttft_high_s
        assert row.peak_memory_bytes is None
        assert row.phase_s["vision"] < row.ttft_s
        assert (row.phase_s["merge"] > 0) == (schedule is not NONE)
        assert (row.phase_s["importance"] > 0) == (schedule is BOTH)


def test_one_run_adds_up(loaded):
    (row,) = measure(loaded, WORKLOAD, [BOTH], repeats=1, warmup=0)
    parts = ("vision", "merge", "llm", "importance", "other")
    assert sum(row.phase_s[part] for part in parts) == pytest.approx(row.ttft_s)
    assert row.ttft_low_s == row.ttft_high_s == row.ttft_s
    of_llm = row.phase_s["llm.layers"] + row.phase_s["llm.head"]
    assert row.phase_s["llm"] == pytest.approx(of_llm)


def test_measured_and_estimated_rows_share_their_keys(loaded):
    (row,) = measure(loaded, WORKLOAD, [NONE], repeats=1, warmup=0)
    predicted = estimate(loaded.spec, WORKLOAD, NONE, load_hardware("a100-sxm4-80gb")).to_row()
    of_measuring = {"vision_layers", "other.time_s", "ttft_low_s", "ttft_high_s"}
    of_measuring |= {"attention_backend", "driver_allocations"}
    written = row.to_row()
    assert written["kind"] == "measurement"
    assert written.keys() - predicted.keys() <= of_measuring | {"repeats", "error"}
    times = {key for key in predicted if key.endswith(".time_s") and not key.startswith("total")}
    assert times <= written.keys()


def test_schedules_take_turns_in_changing_order(loaded, order):
    measure(loaded, WORKLOAD, ALL, repeats=6, warmup=2)
    rounds = [tuple(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(rounds) == 8
    assert all(set(turn) == {schedule.label() for schedule in ALL} for turn in rounds)
    assert len(set(rounds)) > 1
    again = list(order)
    order.clear()
    measure(loaded, WORKLOAD, ALL, repeats=6, warmup=2)
    assert order == again


def test_a_schedule_that_runs_out_of_memory_is_a_row_and_the_others_go_on(loaded, order):
    order.fail[MERGE.label()] = torch.OutOfMemoryError("CUDA out of\nmemory. Tried to allocate")
    rows = measure(loaded, WORKLOAD, ALL, repeats=2, warmup=1)
    assert [row.repeats for row in rows] == [2, 0, 2]
    assert rows[1].error == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
    assert rows[1].ttft_s is rows[1].phase_s["llm"] is None
    assert rows[0].to_row().keys() == rows[1].to_row().keys()
    assert order.count(MERGE.label()) == 1


def test_any_other_failure_is_a_row_too_but_a_wrong_request_is_an_error(loaded, order):
    order.fail[NONE.label()] = KeyError("odd")
    rows = measure(loaded, WORKLOAD, [NONE, MERGE], repeats=1, warmup=0)
    assert [row.error for row in rows] == ["KeyError: 'odd'", None]
    with pytest.raises(ScheduleError, match="l1 below 6"):
        measure(loaded, WORKLOAD, [MERGE, Schedule.parse("prune linear:9:12")], warmup=0)


def test_ctrl_c_loses_no_finished_round(loaded, monkeypatch, tmp_path, capsys):
    calls = 0
    original = module._Prefill._sample

    def interrupted(self):
        nonlocal calls
        calls += 1
        if calls == 6:  # in the middle of the second round
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(module._Prefill, "_sample", interrupted)
    path = tmp_path / "rows.json"
    rows = measure(loaded, WORKLOAD, ALL, repeats=5, warmup=0, out=path)
    assert sorted(row.repeats for row in rows) == [1, 2, 2]
    assert all(row.ttft_s > 0 for row in rows)
    assert read_rows(path) == rows
    assert "interrupted" in capsys.readouterr().err


def test_a_driver_that_was_asked_for_memory_is_noted(loaded, monkeypatch):
    counts = iter([0, 5, 5, 5, 5, 7])  # before and after the warm-up, then each timed run
    monkeypatch.setattr(module._Prefill, "_driver_allocations", lambda self: next(counts))
    (row,) = measure(loaded, WORKLOAD, [NONE], repeats=2, warmup=1)
    assert row.driver_allocations == 2
    monkeypatch.undo()
    (row,) = measure(loaded, WORKLOAD, [NONE], repeats=1, warmup=0)
    assert row.driver_allocations is None  # nobody counts on a CPU


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (1, -1), (1.5, 0)])
def test_counts_that_are_none(loaded, repeats, warmup):
    with pytest.raises(MeasurementError, match="whole number"):
        measure(loaded, WORKLOAD, [NONE], repeats=repeats, warmup=warmup)
