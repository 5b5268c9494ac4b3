"""Profiles, calibrations, configs, schedules and scores with something changed inside."""

import json
import math
from pathlib import Path

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from aim_cost import Case, Schedule, Workload
from aim_cost.devices.hardware import load_hardware
from aim_cost.files.json_text import json_tree
from aim_cost.files.yaml_text import yaml_text, yaml_tree
from aim_cost.models.model import load_model_spec, preset_config
from aim_cost.studies.own_accuracy import read_scores
from aim_cost.timing import load_calibration
from tests.fuzz.asked import fuzzed, refused
from tests.fuzz.changed import text_changed, tree_changed

ROOT = Path(__file__).parents[2] / "hardware_profiles"
VIDEO, AIM = Workload(20, frames=4), "merge 0.25, prune linear:14:22"
PROFILES = [(ROOT / f"{name}.yaml").read_text() for name in ("h100-sxm", "l40s", "cpu-generic")]
CALIBRATION = (ROOT / "calibrations" / "h100-sxm.yaml").read_text()
CONFIGS = [preset_config(n) for n in ("llava-onevision-qwen2-0.5b", "qwen2.5-vl-7b")]
RESULTS = {
    "results": {
        "videomme": {"videomme_perception_score,none": 58.2, "stderr_stderr,none": "N/A"},
        "mme": {"mme_cognition_score,none": 512.3, "mme_perception_score,none": 1530.0},
        "ai2d": {"exact_match,strict-match": 0.5, "exact_match,flexible-extract": 0.25},
    },
    "higher_is_better": {"videomme": {"videomme_perception_score": True}},
    "group_subtasks": {"mme": []},
    "n-samples": {"videomme": {"original": 2700, "effective": 100}},
    "config": {
        "model": "aim_llava_onevision",
        "model_args": "pretrained=llava-hf/llava-onevision-qwen2-7b-ov-hf,max_frames=32,merge=0.25",
        "limit": 100,
    },
}
ROWS = [
    {"schedule": "none", "accuracy": 58.2, "frames": 32, "n": 1000, "model": "m", "kind": "all"},
    {"schedule": AIM, "accuracy": 57.9, "frames": 32, "n": 1000, "model": "m", "ci_low": 50},
    {"schedule": {"merge": {"retention": 0.5}}, "accuracy": "0.5 %", "scale": "percent"},
]


def written(folder_factory, name, content):
    path = folder_factory.getbasetemp() / name
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    return path


def finite(case, schedule):
    """Each figure of an answer is a number above zero, and the answer can be shown."""
    answer = refused(case.price, schedule)
    if answer is not None and (row := refused(answer.to_row)) is not None:
        for name in ("total.flops", "ttft_s", "ttft_low_s", "weights_bytes", "peak_memory_bytes"):
            assert 0 < row[name] < math.inf, (name, row[name])
        assert row["ttft_low_s"] <= row["ttft_s"]
        json.dumps(row, allow_nan=False)
        assert answer.report()


def as_yaml_1_1(text):
    """The other reader of the same text; numbers without a point are text to it."""
    return yaml.safe_load(text)


def agree(ours, theirs):
    """Whether two readers say the same, but for a number without a point."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(agree(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(agree, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, str):
        return float(theirs) == ours
    return type(ours) is type(theirs) and ours == theirs


@example(text="m\terge 0.25")
@fuzzed(0.08)
@given(text=st.sampled_from([*PROFILES, CALIBRATION[:3000], AIM]).flatmap(text_changed))
def test_what_yaml_says_is_what_the_other_reader_says(text):
    try:
        tree = yaml_tree(text)
    except ValueError:
        return
    try:
        other = as_yaml_1_1(text)
    except yaml.scanner.ScannerError:
        assert "\t" in text  # it takes no tab after the start of a line, which YAML does
        return
    assert agree(tree, other)


@fuzzed(0.04)
@given(text=st.sampled_from([json.dumps(one) for one in (RESULTS, ROWS)]).flatmap(text_changed))
def test_what_json_says_is_what_the_other_reader_says(text):
    try:
        tree = json_tree(text)
    except ValueError:
        return
    assert tree == json.loads(text)


profiles = st.one_of(
    st.sampled_from(PROFILES).flatmap(text_changed),
    st.sampled_from([yaml.safe_load(p) for p in PROFILES]).flatmap(tree_changed).map(yaml_text),
)


@fuzzed(0.08)
@given(text=profiles)
def test_a_profile_prices_or_is_refused(text, tmp_path_factory):
    path = written(tmp_path_factory, "profile.yaml", text)
    device = refused(load_hardware, path)
    if device is not None:
        case = refused(Case, "llava-onevision-qwen2-0.5b", VIDEO, device)
        if case is not None:
            finite(case, AIM)


calibrations = st.one_of(
    st.just(CALIBRATION).flatmap(text_changed),
    st.just(yaml.safe_load(CALIBRATION)).flatmap(tree_changed).map(yaml_text),
    st.just(yaml.safe_load(CALIBRATION)).flatmap(tree_changed).map(yaml_text),
)


@fuzzed(0.08)
@given(text=calibrations)
def test_a_calibration_prices_or_is_refused(text, tmp_path_factory):
    path = written(tmp_path_factory, "calibration.yaml", text)
    fitted = refused(load_calibration, path)
    if fitted is not None:
        case = refused(Case, "llava-onevision-qwen2-0.5b", VIDEO, "h100-sxm", calibration=fitted)
        if case is not None:
            finite(case, AIM)


configs = st.one_of(
    st.sampled_from(CONFIGS).map(json.dumps).flatmap(text_changed),
    st.sampled_from(CONFIGS).flatmap(tree_changed).map(json.dumps),
)


@fuzzed(0.06)
@given(text=configs)
def test_a_config_prices_or_is_refused(text, tmp_path_factory):
    model = refused(load_model_spec, written(tmp_path_factory, "config.json", text))
    if model is not None:
        for schedule in ("none", AIM, "merge 0.5, prune linear:0:1"):
            finite(Case(model, VIDEO, "h100-sxm"), schedule)


schedule_files = st.one_of(
    st.sampled_from([AIM, yaml_text(Schedule.parse(AIM).to_dict())]).flatmap(text_changed),
    st.just(Schedule.parse(AIM).to_dict()).flatmap(tree_changed).map(yaml_text),
)


@fuzzed(0.04)
@given(text=schedule_files, suffix=st.sampled_from(["yaml", "yml", "json", "txt"]))
def test_a_schedule_file_reads_or_is_refused(text, suffix, tmp_path_factory):
    path = written(tmp_path_factory, f"schedule.{suffix}", text)
    schedule = refused(Schedule.load, path)
    if schedule is not None:
        assert Schedule.parse(schedule.label()) == schedule
        finite(Case("llava-onevision-qwen2-0.5b", VIDEO, "h100-sxm"), schedule)


scores = st.one_of(
    st.sampled_from([RESULTS, ROWS]).flatmap(tree_changed).map(json.dumps),
    st.sampled_from([RESULTS, ROWS]).map(json.dumps).flatmap(text_changed),
)


@fuzzed(0.06)
@given(text=scores)
def test_a_file_of_scores_reads_or_is_refused(text, tmp_path_factory):
    found = refused(read_scores, [written(tmp_path_factory, "scores.json", text)])
    for name in found.by_benchmark if found is not None else ():
        table = refused(found.table, name)
        if table is not None:
            assert (table["accuracy"] - table["baseline"]).abs().eq(table["difference"].abs()).all()
            assert table["difference"].abs().max() < math.inf
