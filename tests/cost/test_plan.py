"""The planner: the best schedule that data know within limits, and what it says beyond them."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from aim_cost import AimError, Case, Schedule, Workload, load_hardware, load_model_spec, plan
from aim_cost.cli.main import app
from aim_cost.errors import InfeasibleError, SpecError
from aim_cost.papers.accuracy import published_accuracy
from aim_cost.studies.candidates import candidates, priced
from aim_cost.studies.evidence import Knobs, expect, known_rows
from tests.cost.test_cli import run

MODEL = load_model_spec("llava-onevision-qwen2-7b")
H100 = load_hardware("h100-sxm")
VIDEO = Workload(100, frames=32)
CASE = Case(MODEL, VIDEO, H100)
AIM = "merge 0.25, prune linear:14:22"


@pytest.fixture(scope="module")
def accuracy():
    return published_accuracy()


def choose(accuracy, case=CASE, **limits):
    return plan(case, accuracy=accuracy, benchmark="videomme", **limits)


def own(**scores):
    """Own rows of 32 frames, keyed by schedule label; the first is the baseline."""
    first = next(iter(scores.values()))
    rows = [
        {"evidence": "own", "source": "own.csv", "schedule": label, "benchmark": "videomme",
         "accuracy": score, "baseline": first, "difference": score - first, "method": label}
        for label, score in scores.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(frames=32, model=None, note="")


def expected(rows, **knobs):
    """The expectation of one candidate."""
    found = candidates(CASE, (32,))
    for name, value in knobs.items():
        found = found[found[name] == value]
    (answer,) = expect(known_rows(rows, "videomme", MODEL, 100, 32), found).itertuples()
    return answer


def test_candidates_are_priced_as_estimate_prices_them():
    found = candidates(CASE, (32,))
    row = found[(found["tokens"] == 49) & (found["l1"] == 14) & (found["l2"] == 22)].iloc[0]
    result = priced(CASE, row)
    assert result.schedule.label() == AIM
    assert row["llm.flops"] == result.phase("llm").flops == 15_527_245_547_520
    assert row["ttft_s"] == pytest.approx(result.ttft_s, rel=1e-9)
    assert found["share"].max() == 1


def test_without_limits_the_best_row_wins(accuracy):
    answer = choose(accuracy)
    assert answer.result.schedule.label() == "merge 0.5"
    assert answer.difference == 0.3
    assert answer.basis == "row"
    assert answer.binding == ()


def test_a_limit_binds_and_the_answer_keeps_it(accuracy):
    answer = choose(accuracy, ttft_s=0.08)
    assert answer.result.ttft_s <= 0.08
    assert answer.result.schedule.label() == "merge 0.125"
    assert answer.difference == -1.6
    assert answer.binding == ("ttft_s",)
    assert answer.least_reduction.phase("llm").flops > answer.result.phase("llm").flops
    found = candidates(CASE, (32,))
    assert (answer.candidates, answer.feasible) == (len(found), sum(found["ttft_s"] <= 0.08))
    flops = choose(accuracy, flops=4.0e13)
    assert flops.result.flops <= 4.0e13
    assert flops.binding == ("flops",)


def test_interpolation_stays_between_two_rows_of_one_stage(accuracy):
    rows = accuracy[accuracy["benchmark"] == "videomme"]
    between = expected(rows, tokens=36, pruned=False)
    assert between.basis == "interpolated"
    assert -1.6 < between.difference < -0.2
    pruned = expected(rows, tokens=49, l1=10, l2=14)
    assert pruned.basis == "interpolated"
    assert -16.3 < pruned.difference < 0


@pytest.mark.parametrize(
    "knobs",
    [
        {"tokens": 36, "l1": 14, "l2": 22},  # between rows that differ in two stages
        {"tokens": 49, "l1": 6, "l2": 8},  # beyond the row that prunes most
        {"tokens": 49, "l1": 3, "l2": 18},  # starts before any row
        {"tokens": 196, "l1": 14, "l2": 22},  # pruning alone: no row
    ],
)
def test_there_is_no_guess_outside_the_data(accuracy, knobs):
    answer = expected(accuracy, **knobs)
    assert answer.basis == "none"
    assert pd.isna(answer.difference)


def test_a_row_of_the_schedule_itself_beats_interpolation():
    scores = {"none": 60, "merge 0.5": 40, "merge 0.25": 50, "merge 0.125": 30}
    answer = expected(own(**scores), tokens=49, pruned=False)
    assert (answer.basis, answer.difference) == ("row", -10)


def test_interpolation_is_linear_in_llm_flops_between_the_nearest_rows():
    scores = {"none": 60, "merge 0.5": 50, "merge 0.25": 40, "merge 0.125": 0}
    answer = expected(own(**scores), tokens=73, pruned=False)
    rows = [CASE.price(Schedule.parse(f"merge {kept}")) for kept in (0.5, 0.25, 0.375)]
    high, low, middle = (row.phase("llm").flops for row in rows)
    share = (middle - low) / (high - low)
    assert answer.difference == pytest.approx(-20 + 10 * share)


def test_rows_of_other_rankings_models_and_selections_are_no_evidence():
    assert Knobs.of(Schedule.parse("prune linear:14:22 score=random"), MODEL, 32) is None
    assert Knobs.of(Schedule.parse("merge 0.25 by=random"), MODEL, 32) is None
    assert Knobs.of(Schedule.parse("select frame:49"), MODEL, 32) is None
    assert Knobs.of(Schedule.parse("merge passes:98,49"), MODEL, 32) == Knobs(32, 49, 28, 29)


def test_without_evidence_the_least_reduction_is_chosen_and_said(accuracy):
    small = load_model_spec("llava-onevision-qwen2-0.5b")
    case = Case(small, VIDEO, H100)
    answer = choose(accuracy, case, flops=2.17e13)
    assert answer.difference is None and answer.rows == ()
    assert answer.to_row()["accuracy.evidence"] == "no evidence"
    assert answer.result.schedule == answer.least_reduction.schedule
    found = candidates(case, (32,))
    fitting = found[found["total.flops"] <= 2.17e13]
    assert answer.result.phase("llm").flops == fitting["llm.flops"].max()


def test_frames_are_free_only_where_rows_are(accuracy):
    answer = choose(accuracy, choose_frames=True, ttft_s=0.5)
    assert answer.result.schedule.label() == AIM
    assert answer.result.workload.frames == 176
    assert answer.basis == "interpolated"
    assert [row.frames for row in answer.rows] == [32, 192]
    longer = answer.candidates - len(candidates(CASE, (32,)))
    assert longer == 10  # AIM's own schedule at 48, 64 ... 192 frames; nothing is known of others
    merging = own(**{"none": 60, "merge 0.5": 59})
    assert choose(merging, choose_frames=True).result.workload.frames == 32


def test_own_rows_choose_otherwise():
    answer = choose(own(**{"none": 60, "merge 0.5": 40, AIM: 59}), ttft_s=0.2)
    assert answer.result.schedule.label() == AIM
    assert answer.to_row()["accuracy.evidence"] == "own"


@pytest.mark.parametrize("name", ["llava-1.5-7b", "my fine-tune", "llava-hf/llava-1.5-7b-hf"])
def test_own_rows_of_another_model_are_refused(name):
    with pytest.raises(SpecError, match=f"got those of {name}"):
        choose(own(**{"none": 60, "merge 0.5": 40}).assign(model=name))


@pytest.mark.parametrize(
    "name", ["llava-onevision-qwen2-7b", MODEL.checkpoint, "lmms-lab/llava-onevision-qwen2-7b-ov"]
)
def test_own_rows_of_the_model_count_under_each_of_its_names(name):
    scores = own(**{"none": 60, "merge 0.5": 62})
    both = pd.concat([scores.assign(model=name), scores.assign(model="other", difference=9.0)])
    answer = choose(both)
    assert answer.difference == 2
    assert answer.other_models == ("other",)
    assert "Left out: scores of other" in str(answer)


@pytest.mark.parametrize(
    ("limits", "flag"),
    [
        ({"ttft_s": 0.03}, "--ttft-ms"),
        ({"flops": 2.2e13}, "--flops-tera"),
        ({"memory_bytes": 1.6e10}, "--memory-gb"),
    ],
)
def test_infeasible_limits_name_the_flag_and_what_is_nearest(accuracy, limits, flag):
    with pytest.raises(InfeasibleError, match="nearest: ") as caught:
        choose(accuracy, **limits)
    assert caught.value.where == flag
    if flag == "--ttft-ms":
        assert "--frames" in caught.value.fix


def test_the_device_is_a_limit(accuracy):
    jetson = load_hardware("jetson-orin-nano-super-8gb")
    with pytest.raises(InfeasibleError) as caught:
        choose(accuracy, Case(MODEL, VIDEO, jetson))
    assert caught.value.where == "--memory-gb"


def test_command_line(tmp_path):
    invoked = CliRunner().invoke(app, ["plan", "--ttft-ms", "80", "--format", "json"])
    answer = json.loads(invoked.stdout)
    assert answer["schedule_file"] == {"merge": {"retention": 0.125}}
    assert answer["accuracy"]["rows"][0]["accuracy"] == 56.6
    assert answer["binding_limit"] == ["ttft_s"]
    assert answer["ttft_low_s"] < answer["ttft_s"] < answer["ttft_high_s"]
    assert answer["accuracy.source"].startswith("AIM, arXiv")
    scores = tmp_path / "own.csv"
    scores.write_text('schedule,accuracy\nnone,60\n"merge 0.25, prune linear:14:22",61\n')
    text = run("plan", "--accuracy", str(scores))
    assert "+1.0 points" in text and "own" in text and AIM in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_plan_shows_itself_as_the_command_does():
    answer = plan(Case("llava-onevision-qwen2-7b", VIDEO, "h100-sxm"), ttft_s=0.11)
    assert str(answer) == run("plan", "--ttft-ms", "110").rstrip("\n")


def test_a_plan_uses_the_calibration_of_its_case():
    case = Case(MODEL, VIDEO, H100, calibration="a100-sxm4-80gb")
    answer = plan(case, ttft_s=0.15)
    assert answer.result.ttft.source == "inherited"
    row = candidates(case, (32,)).iloc[7]
    assert row["ttft_s"] == pytest.approx(priced(case, row).ttft_s, rel=1e-9)
    assert row["ttft_s"] != pytest.approx(priced(CASE, row).ttft_s, rel=1e-3)


@pytest.mark.parametrize(
    ("case", "limits", "named"),
    [
        (CASE, {"ttft_s": -1.0}, "--ttft-ms"),
        (CASE, {"flops": float("nan")}, "--flops-tera"),
        (Case(MODEL, Workload(100, image_tokens=729), H100), {}, "a video"),
        (Case("qwen2-vl-7b", Workload(100, frames=4, frame_size=(448, 448)), H100), {}, "size"),
    ],
)
def test_what_cannot_be_planned_is_refused(case, limits, named):
    with pytest.raises(SpecError, match=named):
        plan(case, **limits)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ttft-ms", "0"], "--ttft-ms"),
        (["--ttft-ms", "20"], "nearest"),
        (["--frames", "many"], "--frames"),
        (["--frames", "32,64"], "got 32,64"),
        (["--frames", "0"], "frames"),
        (["--benchmark", "mmlu"], "videomme"),
        (["--accuracy", "/nowhere.csv"], "/nowhere.csv"),
        (["--model", "llava-1.5-7b"], "video"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, named):
    error = CliRunner().invoke(app, ["plan", *arguments]).exception
    assert isinstance(error, AimError)
    assert named in str(error)
