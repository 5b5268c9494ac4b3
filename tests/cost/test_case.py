"""Case: what is priced, given by names or specs; estimates as people see them."""

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from aim_cost import (
    AimError,
    Case,
    Execution,
    HardwareProfile,
    ModelSpec,
    Schedule,
    Workload,
    estimate,
    load_hardware,
    load_model_spec,
)
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.models.model import _PRESETS
from aim_cost.timing import load_calibration
from tests.cost.test_cli import AIM as AIM_FLAGS
from tests.cost.test_cli import run

VIDEO = Workload(100, frames=32)
AIM = Schedule.parse("merge 0.25, prune linear:14:22")
CASE = Case("llava-onevision-qwen2-7b", VIDEO, "h100-sxm")


def test_names_and_paths_are_read_when_the_case_is_made(tmp_path):
    assert isinstance(CASE.model, ModelSpec) and isinstance(CASE.device, HardwareProfile)
    assert CASE.execution == Execution() and CASE.calibration is None
    specs = load_model_spec("llava-onevision-qwen2-7b"), VIDEO, load_hardware("h100-sxm")
    assert Case(*specs) == CASE and hash(Case(*specs)) == hash(CASE)
    config = tmp_path / "llava-onevision-qwen2-7b.json"
    config.write_bytes((_PRESETS / config.name).read_bytes())
    own = tmp_path / "mine.yaml"
    load_calibration("a100-sxm4-80gb").save(own)
    case = Case(config, VIDEO, "h100-sxm", calibration=own)
    config.unlink()
    own.unlink()
    assert case.model == CASE.model
    assert case.price(AIM).ttft == Case(*specs, calibration="a100-sxm4-80gb").price(AIM).ttft
    assert case.price(AIM).ttft.source == "inherited"


def test_a_case_is_a_value():
    assert pickle.loads(pickle.dumps(CASE)) == CASE
    with pytest.raises(FrozenInstanceError):
        CASE.workload = VIDEO
    shorter = replace(CASE, workload=Workload(100, frames=8))
    assert shorter.model is CASE.model and shorter != CASE
    assert shorter.price().trace.prompt_tokens == 8 * 196 + 1 + 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("llava-onevision", VIDEO, "h100-sxm"), "llava-onevision-qwen2-7b"),
        (("llava-onevision-qwen2-7b", VIDEO, "h100"), "h100-sxm"),
        (("llava-onevision-qwen2-7b", VIDEO, "h100-sxm", None, "h100"), "aim-cost calibrate"),
    ],
)
def test_a_wrong_name_is_refused_at_once(arguments, named):
    with pytest.raises(AimError, match=named):
        Case(*arguments)


def test_estimate_is_the_price_of_a_case():
    execution = Execution(mode="ideal")
    priced = Case("llava-onevision-qwen2-7b", VIDEO, "l40s", execution).price(AIM, "llm-viewer")
    called = estimate("llava-onevision-qwen2-7b", VIDEO, AIM, "l40s", execution, "llm-viewer")
    assert called == priced
    assert called.to_row() == priced.to_row()


def test_the_baseline_is_the_same_case_without_reduction():
    result = CASE.price(AIM, "fastv")
    assert result.baseline == CASE.price(Schedule(), "fastv") == CASE.price(convention="fastv")


def test_an_estimate_shows_itself_as_predict_does():
    result = CASE.price(AIM)
    shown = run("predict", *AIM_FLAGS)
    assert result.report() == shown
    assert str(result) == shown.rstrip("\n")
    bundle = result._repr_mimebundle_(include=None, exclude=None)
    assert bundle["text/plain"] == str(result)
    assert bundle["text/html"].startswith("<pre")
    assert "TTFT 242.16 ms -&gt; 84.74 ms" in bundle["text/html"]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("merge 0.25, prune linear:14:22", ": the schedule pays"),
        ("prune linear:24:26", ": whether the schedule pays is open, for the band is wider"),
        ("merge 0.98 by=random, prune linear:0:99", ": the schedule does not pay"),
    ],
)
def test_a_schedule_pays_only_where_the_band_says_so(schedule, said):
    answer = CASE.price(schedule)
    assert " ".join(str(answer).split()).endswith(said)
    inside = answer.ttft.low_s <= answer.baseline.ttft_s <= answer.ttft.high_s
    assert inside == ("open" in said)


def test_a_schedule_may_be_given_as_its_text():
    text = "merge 0.25, prune linear:14:22"
    assert CASE.price(text).to_row() == CASE.price(Schedule.parse(text)).to_row()
    with pytest.raises(ScheduleError, match=r"Schedule\.parse"):
        CASE.price({"merge": {"retention": 0.25}})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((None, VIDEO, "h100-sxm"), "model: expected a ModelSpec or str or Path"),
        (("llava-1.5-7b", 32, "h100-sxm"), "workload: expected a Workload, got 32"),
        (("llava-1.5-7b", VIDEO, 7), "device: "),
        (("llava-1.5-7b", VIDEO, "h100-sxm", "eager"), "execution: "),
    ],
)
def test_an_argument_of_another_type_is_one_clear_error(arguments, named):
    with pytest.raises(SpecError, match=named):
        Case(*arguments)
