"""Published accuracy with its sources, and users' own files."""

import json
import os
import re
from pathlib import Path

import pytest

from aim_cost import AimError, Workload, estimate, load_hardware, load_model_spec
from aim_cost.conventions.convention import get_convention
from aim_cost.papers.accuracy import COLUMNS, published_accuracy
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.own_accuracy import read_scores

ROOT = Path(__file__).resolve().parents[2]
FACTS = Path(os.environ.get("AIM_SHARED", ROOT.parent / "shared")) / "facts"
FILES = "schedule,accuracy,frames,n\n{}\n"


@pytest.fixture(scope="module")
def published():
    return published_accuracy()


def test_every_row_has_a_source_and_the_baseline_of_its_own_source(published):
    assert list(published.columns) == list(COLUMNS)
    assert set(published["evidence"]) == {"published"}
    assert published["source"].str.contains("arXiv").all()
    for (_, _), rows in published.groupby(["source", "benchmark"]):
        (unreduced,) = rows[rows["schedule"] == "none"]["accuracy"]
        assert set(rows["baseline"]) == {unreduced}
        assert (rows["difference"] == (rows["accuracy"] - unreduced).round(1)).all()


def test_aims_videomme_is_joined_and_its_unclear_rows_have_no_schedule(published):
    rows = published[published["source"].str.contains("2412") & (published.benchmark == "videomme")]
    aim = rows[(rows["schedule"] == "merge 0.25, prune linear:14:22") & (rows["frames"] == 192)]
    assert list(aim["difference"]) == [1.0]
    assert list(rows[rows["note"] != ""]["accuracy"]) == [56.4, 53.6, 52.3, 50.9]
    assert rows[rows["note"] != ""]["schedule"].isna().all()


def test_schedules_give_the_counts_that_papers_print(published):
    """A schedule stands in the table only where it gives the printed FLOPs."""
    hardware = load_hardware("a100-sxm4-40gb")
    conventions = {"2503.11187": ("fastvid", 2), "2505.21334": ("fastv", 1)}
    checked = 0
    for number, (name, digits) in conventions.items():
        rows = published[published["source"].str.contains(number)]
        rows = rows[rows["schedule"].notna() & rows["published_llm_flops"].notna()]
        for row in rows.drop_duplicates(["method", "budget"]).to_dict("records"):
            schedule = Schedule.parse(row["schedule"])
            workload = Workload(0, frames=row["frames"])
            model = load_model_spec(row["model"])
            result = estimate(model, workload, schedule, hardware, convention=get_convention(name))
            assert round(result.macs / 1e12, digits) == row["published_llm_flops"] / 2e12, row
            checked += 1
    assert checked == 17


def test_accuracies_are_those_of_the_facts(published):
    if not FACTS.exists():
        pytest.skip(f"no {FACTS}: set AIM_SHARED to the directory that holds facts/")
    text = (FACTS / "methods.md").read_text() + (FACTS / "aim.md").read_text()
    numbers = set(re.findall(r"\d+\.\d", text))
    assert {f"{accuracy:.1f}" for accuracy in published["accuracy"]} <= numbers


def load_accuracy(paths):
    """The scores of files that hold one benchmark."""
    scores = read_scores(paths)
    (benchmark,) = scores.by_benchmark
    return scores.table(benchmark)


def write(path, text):
    path.write_text(text)
    return path


def test_csv_of_percent_and_json_of_shares(tmp_path):
    table = FILES.format('none,60,32,1000\n"merge 0.25, prune linear:14:22",58.5,32,1000')
    own = load_accuracy([write(tmp_path / "own.csv", table)])
    assert list(own["evidence"]) == ["own", "own"]
    assert list(own["difference"]) == [0, -1.5]
    rows = [
        {"schedule": "none", "importance": "pagerank", "accuracy": 0.9, "kind": "all"},
        {"schedule": {"prune": {"linear": [2, 4]}}, "importance": "random", "accuracy": 0.5,
         "ci_low": 0.4, "ci_high": 0.6, "n": 200, "kind": "all", "llm_flops": 5},
    ]  # fmt: skip
    own = load_accuracy([write(tmp_path / "own.json", json.dumps(rows))])
    assert own.iloc[1]["schedule"] == "prune linear:2:4 score=random"
    assert own.iloc[1][["accuracy", "ci_low", "difference"]].tolist() == [50, 40, -40]
    assert set(own["benchmark"]) == {"all"}
    wrapped = write(tmp_path / "wrapped.json", json.dumps({"environment": {}, "rows": rows}))
    assert load_accuracy([wrapped])["accuracy"].tolist() == [90, 50]


def lmms(arguments, score):
    return json.dumps(
        {
            "results": {
                "videomme": {
                    "alias": "videomme",
                    "videomme_perception_score,none": score,
                    "videomme_perception_score_stderr,none": 0.9,
                }
            },
            "n-samples": {"videomme": {"original": 2700, "effective": 2700}},
            "config": {"model": "aim_llava_onevision", "model_args": arguments},
        }
    )


def test_results_of_lmms_eval(tmp_path):
    common = "pretrained=llava-hf/llava-onevision-qwen2-7b-ov-hf,max_frames=32"
    schedule = ",merge=passes:98,49,prune=linear:14:22"
    files = [
        write(tmp_path / "a.json", lmms(common, 58.2)),
        write(tmp_path / "b.json", lmms(common + schedule, 57.9)),
    ]
    own = load_accuracy(files)
    assert list(own["schedule"]) == ["none", "merge passes:98,49, prune linear:14:22"]
    assert list(own["frames"]) == [32, 32]
    assert list(own["n"]) == [2700, 2700]
    assert own.iloc[1]["difference"] == pytest.approx(-0.3)


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.csv", "schedule,score\nnone,1\n", "column accuracy"),
        ("a.csv", "schedule,accuracy\n", "rows of accuracy"),
        ("a.csv", "schedule,accuracy\nmerge 0.5,50\n", "schedule none"),
        ("a.csv", "schedule,accuracy\nnone,fifty\n", "row 1: accuracy"),
        ("a.csv", "schedule,accuracy\nnone,nan\n", "a number"),
        ("a.csv", "schedule,accuracy\nnone,160\n", "percent"),
        ("a.csv", "schedule,accuracy\nnone,50\nnone,51\n", "a second one"),
        (
            "a.csv",
            "schedule,accuracy\nhalf,50\n",
            "a part: sample, vision-merge, merge, select, prune, got 'half'",
        ),
        ("a.csv", "schedule,accuracy,frames\nnone,50,1.5\n", "frames"),
        ("a.csv", "", "a readable CSV or JSON file, got an empty file"),
        ("a.json", "{}", "a list of rows"),
        ("a.json", '{"results": {"x": {}}, "config": {"model_args": ""}}', "a score per task"),
        ("a.json", '{"results": {}, "config": {}}', "model_args"),
        ("a.json", lmms("schedule=a.yaml,merge=0.5", 1), "got model_args.merge"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, name, text, named):
    with pytest.raises(AimError, match=named) as caught:
        load_accuracy([write(tmp_path / name, text)])
    assert "\n" not in str(caught.value)
