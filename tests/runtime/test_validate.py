"""Validation: equality is judged, and a difference is seen."""

import dataclasses
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from aim_cost import Case, Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_cost.errors import SpecError
from aim_cost.ops.op import PHASES
from aim_runtime import load, validate
from aim_runtime.cli.main import app
from aim_runtime.cli.options import LoadOptions
from aim_runtime.measurement.measurement import PHASE_TIMES, Measurement
from aim_runtime.measurement.row_key import RowKey, RunKey
from aim_runtime.validation import counts as module
from aim_runtime.validation.agreement import Agreement
from aim_runtime.validation.comparison import Comparison, join
from aim_runtime.validation.counts import Counts
from aim_runtime.validation.plots import validation_plot
from aim_runtime.validation.suite import default_schedules, validation_schedules
from aim_runtime.validation.table import verdict
from tests.runtime.support import tiny_config

WORKLOAD = Workload(frames=6, text_tokens=50)


@pytest.fixture(scope="module")
def result():
    loaded = load(tiny_config(), "cpu", "float32", random_weights=True)
    workload = Workload(text_tokens=9, frames=5)
    schedules = [
        *default_schedules(loaded.spec, workload),
        Schedule.parse("merge passes:5,3,2, prune ratios:0.9,0.7,0.4"),
    ]
    return validate(loaded, workload, schedules, hardware="cpu-generic", repeats=2)


def test_a_real_run_agrees_with_the_prediction(result):
    found = result.agreement
    assert result.passed and found.passed and found.traces_equal and found.flops_equal
    assert len(result.rows) == 7
    row = result.rows[-1]
    assert row.label == "merge passes:5,3,2, prune ratios:0.9,0.7,0.4"
    # 5 * 2 + 1 newline + 9; int(11 r + 9)
    assert row.measured.tokens_per_layer == (20, 18, 16, 13)
    assert row.counts.counted_flops == row.counts.predicted.flops > 0
    assert row.counts.counted["importance"] > 0
    assert row.ttft_error == row.predicted_s("ttft") / row.measured.ttft_s - 1


def test_a_row_is_flat_and_its_speedups_are_over_the_first(result):
    tree = result.to_dict()
    rows = tree["rows"]
    assert json.loads(json.dumps(tree)) == tree
    assert [row["schedule"] for row in rows] == [row.label for row in result.rows]
    first, last = rows[0], rows[-1]
    assert (first["speedup"], first["predicted.speedup"]) == (1, 1)
    assert last["speedup"] == first["ttft_s"] / last["ttft_s"]
    assert last["predicted.speedup"] == first["predicted.ttft_s"] / last["predicted.ttft_s"]
    assert last["counted.total.flops"] == last["predicted.total.flops"]
    parts = [last[f"counted.{phase}.flops"] for phase in PHASES]
    assert sum(parts) == last["counted.total.flops"]
    assert last["predicted.source"] == "datasheet"
    assert tree["worst_row"] in [row["schedule"] for row in rows]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_counts_agree_where_the_last_layer_computes_one_token(attention):
    loaded = load(tiny_config(), "cpu", "float32", random_weights=True)
    loaded.model.set_attn_implementation(attention)
    drops = Schedule.parse("merge passes:5, prune ratios:1,0.7,0.7,0.4 drop=after-attention")
    workload = Workload(text_tokens=9, frames=2)
    anywhere = load_hardware("cpu-generic")
    schedules = [Schedule(), drops]
    whole = module.check_counts(loaded, workload, schedules, anywhere)
    rows = module.check_counts(loaded, workload, schedules, anywhere, last_layer="needed")
    assert [row.differences for row in (*whole, *rows)] == [()] * 4
    for before, after in zip(whole, rows, strict=True):
        assert after.counted["llm.layers"] < before.counted["llm.layers"]
    # what leaves in the last layer need not be ranked
    assert 0 < rows[1].counted["importance"] < whole[1].counted["importance"]


def test_a_wrong_prediction_is_seen(monkeypatch):
    """If the runtime counted one merge pass differently, validation would fail."""
    loaded = load(tiny_config(), "cpu", "float32", random_weights=True)
    real = module.count_flops

    def off(*args, **options):
        counted, tokens = real(*args, **options)
        counted["llm.layers"] += 2
        return counted, dataclasses.replace(tokens, text_tokens=tokens.text_tokens + 1)

    monkeypatch.setattr(module, "count_flops", off)
    workload = Workload(text_tokens=9, frames=2)
    result = validate(loaded, workload, [Schedule()], hardware="cpu-generic", repeats=1)
    found = result.agreement
    assert not (found.passed or found.traces_equal or found.flops_equal)
    text = "\n".join(verdict(result.rows, found))
    assert "DIFFER" in text
    assert "llm.layers: predicted" in text


CASE = Case("llava-onevision-qwen2-7b", Workload(frames=32, text_tokens=50), "h100-sxm")
NONE, REDUCED = Schedule(), Schedule.parse("merge 0.5")


def row(factor, schedule=NONE, *, case=CASE, error=None, **changes):
    """A comparison whose clock says ``factor`` times what is predicted; None: it says nothing."""
    predicted = case.price(schedule)
    run = RunKey.to_run(case.model, case.workload, schedule, dtype="bfloat16")
    counted = {name: predicted.phase(name).flops for name in PHASES}
    clock_s = None if factor is None else factor * predicted.ttft_s
    measured = Measurement(
        key=RowKey(run, "a GPU", "flash"),
        phase_s=dict.fromkeys(PHASE_TIMES) | changes,
        ttft_s=clock_s,
        ttft_low_s=clock_s,
        ttft_high_s=clock_s,
        peak_memory_bytes=None,
        driver_allocations=None,
        tokens_per_layer=predicted.trace.attention_tokens,
        repeats=0 if factor is None else 1,
        error=error,
    )
    return Comparison(Counts(run, predicted, counted, predicted.trace), measured)


def test_errors_and_order():
    rows = [row(2.0), row(1.25, REDUCED), row(1 / 1.2, Schedule.parse("merge 0.25"))]
    found = Agreement.of(rows)
    assert found.errors.mape == pytest.approx((0.5 + 0.2 + 0.2) / 3)
    assert found.errors.bias == pytest.approx((-0.5 + 0.2 - 0.2) / 3)
    assert found.errors.p95 == pytest.approx(0.47)  # between the second largest, 0.2, and 0.5
    assert found.worst is rows[0]
    assert found.kendall_tau == 1.0
    assert found.phases["merge"] is None  # no clock told it apart
    clock = [one.measured.ttft_s for one in rows]
    residual = sum((one.predicted_s("ttft") - t) ** 2 for one, t in zip(rows, clock, strict=True))
    spread = sum((t - sum(clock) / 3) ** 2 for t in clock)
    assert found.phases["ttft"].r2 == pytest.approx(1 - residual / spread)
    assert Agreement.of([row(2.0)]).kendall_tau is None
    assert Agreement.of([row(1.0), row(10.0, REDUCED)]).kendall_tau == -1.0


def test_phases_are_judged_where_they_ran():
    merge_s = row(1.0, REDUCED).predicted_s("merge")
    found = Agreement.of([row(1.0, merge=0.0), row(1.0, REDUCED, merge=2 * merge_s)])
    assert found.phases["merge"].bias == pytest.approx(-0.5)
    assert found.phases["merge"].r2 is None  # a single row does not vary
    assert found.to_row()["phases"]["importance"] == {"mape": None, "bias": None, "r2": None}


def test_the_band_is_judged():
    ttft = CASE.price().ttft
    outside = 1.01 * ttft.high_s / ttft.time_s
    assert Agreement.of([row(1.0), row(outside)]).in_band == 0.5
    anywhere = replace(CASE, device=load_hardware("cpu-generic"))
    assert Agreement.of([row(1.0, case=anywhere)]).in_band is None  # a roofline has none


def test_a_failed_row_fails_the_run_and_is_named():
    rows = [row(2.0), row(None, REDUCED, error="OutOfMemoryError: too big")]
    found = Agreement.of(rows)
    assert not found.passed
    assert found.failed_rows == 1
    assert "Failed: merge 0.5: OutOfMemoryError: too big" in verdict(rows, found)
    alone = Agreement.of(rows[1:])
    assert alone.errors is alone.worst is None
    assert alone.to_row()["mape"] is alone.to_row()["worst_row"] is None


def test_a_schedule_that_does_not_pay_is_said_not_to_pay():
    rows = [row(1.0), row(5.0, REDUCED)]
    assert any("Does not pay here: merge 0.5" in line for line in verdict(rows, Agreement.of(rows)))


def test_each_schedule_meets_its_own_measurement():
    rows = [row(1.0), row(2.0, REDUCED)]
    counts, measured = [one.counts for one in rows], [one.measured for one in rows]
    assert join(counts, measured[::-1]) == rows
    key = measured[0].key
    other = replace(key, run=replace(key.run, workload=Workload(50, frames=7)))
    with pytest.raises(KeyError):  # the schedule is the same, the case is not
        join(counts, [replace(measured[0], key=other), measured[1]])


def test_the_picture_is_written(result, tmp_path):
    path = tmp_path / "validation.png"
    validation_plot(result.rows, path, result.title)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda_agrees_too():
    loaded = load("llava-onevision-qwen2-0.5b", "cuda", random_weights=True, layers=4)
    workload = Workload(text_tokens=20, frames=2)
    assert validate(loaded, workload, default_schedules(loaded.spec, workload), repeats=2).passed


@pytest.mark.parametrize("layers", [6, 12, 24, 28])
def test_the_schedules_of_a_validation_are_far_enough_apart_to_be_ordered(layers):
    model = load_model_spec("llava-onevision-qwen2-0.5b")
    model = dataclasses.replace(
        model, text=dataclasses.replace(model.text, num_hidden_layers=layers)
    )
    schedules = validation_schedules(model, WORKLOAD)
    flops = [
        priced.phase("llm").flops + priced.phase("importance").flops
        for priced in (_price(model, schedule) for schedule in schedules)
    ]
    assert len(schedules) >= 12
    assert all(then <= 0.92 * now for now, then in pairwise(flops))


def _price(model, schedule):
    return estimate(model, WORKLOAD, schedule, load_hardware("h100-sxm"))


@given(
    layers=st.integers(1, 80),
    frames=st.integers(1, 64),
    text=st.integers(1, 200),
    suite=st.sampled_from([default_schedules, validation_schedules]),
)
def test_no_two_default_schedules_run_the_same(layers, frames, text, suite):
    model = load_model_spec("llava-onevision-qwen2-0.5b")
    model = dataclasses.replace(
        model, text=dataclasses.replace(model.text, num_hidden_layers=layers)
    )
    workload = Workload(text, frames=frames)
    schedules = suite(model, workload)
    traces = [schedule.resolve(model, workload) for schedule in schedules]
    assert schedules[0] == Schedule()
    assert len(set(traces)) == len(traces) >= 4
    assert len({schedule.label() for schedule in schedules}) == len(schedules)


def test_a_picture_of_another_kind_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(LoadOptions, "load", lambda *_: pytest.fail("a model was loaded"))
    out = tmp_path / "validation.bmp"
    result = CliRunner().invoke(app, ["validate", "--plot", str(out)])
    assert isinstance(result.exception, SpecError) and ".png" in str(result.exception)
