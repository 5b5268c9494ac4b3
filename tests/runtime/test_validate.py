"""Validation: equality is judged, and a difference is seen."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aim_cost import Schedule, Workload, estimate, load_hardware, load_model_spec, preset_config
from aim_runtime import load, validate
from aim_runtime.cli.validate import validation_plot, verdict
from aim_runtime.validation import validate as module
from aim_runtime.validation.agreement import summary
from aim_runtime.validation.suite import default_schedules, validation_schedules

WORKLOAD = Workload(frames=6, text_tokens=50)


def tiny_config(layers=4):
    """A LLaVA-OneVision of the real class with 5 x 5 patches, pooled to 3 x 3 tokens a frame."""
    config = preset_config("llava-onevision-qwen2-0.5b")
    config["vision_config"] |= {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 70,
    }
    config["text_config"] |= {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
    }
    return config | {"image_token_index": 250, "video_token_index": 251}


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
    totals = result.summary
    assert totals["passed"]
    assert totals["traces_equal"]
    assert totals["flops_equal"]
    assert len(result.rows) == 7
    row = result.rows[-1]
    assert row["schedule"] == "merge passes:5,3,2, prune ratios:0.9,0.7,0.4"
    assert row["tokens_per_layer"] == [20, 18, 16, 13]  # 5 * 2 + 1 newline + 9; int(11 r + 9)
    assert row["counted.total.flops"] == row["predicted.total.flops"] > 0
    assert row["counted.importance.flops"] > 0
    assert row["ttft_error"] == row["predicted.ttft_s"] / row["ttft_s"] - 1


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
    assert [row["differences"] for row in (*whole, *rows)] == [[]] * 4
    for before, after in zip(whole, rows, strict=True):
        assert after["counted.llm.layers.flops"] < before["counted.llm.layers.flops"]
    # what leaves in the last layer need not be ranked
    assert 0 < rows[1]["counted.importance.flops"] < whole[1]["counted.importance.flops"]


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
    assert not result.summary["passed"]
    assert not result.summary["traces_equal"]
    assert not result.summary["flops_equal"]
    text = "\n".join(verdict(result.rows, result.summary))
    assert "DIFFER" in text
    assert "llm.layers: predicted" in text


def row(predicted, measured, **changes):
    error = None if measured is None else predicted / measured - 1
    return {
        "schedule": "s",
        "predicted.ttft_s": predicted,
        "ttft_s": measured,
        "ttft_error": error,
        "predicted.source": "measured",
        "traces_equal": True,
        "flops_equal": True,
        "differences": [],
        "error": None,
    } | changes


def test_errors_and_order():
    totals = summary([row(1.0, 2.0), row(3.0, 2.5), row(4.0, 5.0)])
    assert totals["mape"] == pytest.approx((0.5 + 0.2 + 0.2) / 3)
    assert totals["bias"] == pytest.approx((-0.5 + 0.2 - 0.2) / 3)
    assert totals["kendall_tau"] == 1.0
    assert totals["worst_row"] == "s"
    assert totals["p95"] == pytest.approx(0.47)  # between the second largest, 0.2, and 0.5
    # of TTFT: residuals 1, 0.5 and 1 around clocks 2, 2.5 and 5
    assert totals["phases"]["ttft"]["r2"] == pytest.approx(1 - 2.25 / 5.1667, abs=1e-4)
    assert totals["phases"]["merge"]["mape"] is None
    assert summary([row(1.0, 2.0), row(2.0, 1.0)])["kendall_tau"] == -1.0
    assert summary([row(1.0, 2.0)])["kendall_tau"] is None


def test_the_band_is_judged():
    inside = {"predicted.ttft_low_s": 0.5, "predicted.ttft_high_s": 2.5}
    rows = [row(1.0, 2.0, **inside), row(1.0, 3.0, **inside)]
    assert summary(rows)["in_band"] == 0.5
    assert summary([row(1.0, 2.0)])["in_band"] is None


def test_a_failed_row_fails_the_run_and_is_named():
    rows = [row(1.0, 2.0), row(1.0, None, error="OutOfMemoryError: too big")]
    totals = summary(rows)
    assert not totals["passed"]
    assert totals["failed_rows"] == 1
    assert any("OutOfMemoryError" in line for line in verdict(rows, totals))


def test_a_schedule_that_does_not_pay_is_said_not_to_pay():
    rows = [row(1.0, 1.0, schedule="none"), row(0.5, 1.5, schedule="slow")]
    assert any("Does not pay here: slow" in line for line in verdict(rows, summary(rows)))


def test_the_picture_is_written(result, tmp_path):
    path = tmp_path / "validation.png"
    validation_plot(result.rows, path, result.title)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda_agrees_too():
    loaded = load("llava-onevision-qwen2-0.5b", "cuda", random_weights=True, layers=4)
    workload = Workload(text_tokens=20, frames=2)
    assert validate(loaded, workload, default_schedules(loaded.spec, workload), repeats=2).summary[
        "passed"
    ]


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
