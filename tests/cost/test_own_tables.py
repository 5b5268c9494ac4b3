"""Scores in tables of one's own: spreadsheets, one scale, frames."""

import json

import pandas as pd
import pytest

from aim_cost import AimError, Case, Workload, plan
from aim_cost.errors import SpecError
from aim_cost.studies.own_accuracy import read_scores
from tests.cost.test_evidence_files import AIM, CASE, difference


def own(tmp_path, text):
    path = tmp_path / "own.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [path]


TABLE = "schedule,accuracy,benchmark\nnone,58.2,videomme\n"


@pytest.mark.parametrize(
    "text",
    [
        TABLE + '"merge 0.25, prune linear:14:22",57.9,videomme\n',
        "schedule;accuracy;benchmark\nnone;58,2;videomme\n"
        "merge 0.25, prune linear:14:22;57,9;videomme\n",
        "\ufeffschedule\taccuracy\nnone\t58.2\nmerge 0.25, prune linear:14:22\t57.9\n",
        "schedule\taccuracy\nnone\t58,2\nmerge 0.25, prune linear:14:22\t57,9\n".encode("utf-16"),
        "schedule;accuracy\nnone;58,20%\nmerge 0.25, prune linear:14:22;57,90 %\n",
        "schedule;accuracy;scale\nnone;0,582;share\nmerge 0.25, prune linear:14:22;57,9;percent\n",
        "sep=;\nschedule;accuracy;;\nnone;0,582;;\nmerge 0.25, prune linear:14:22;0,579;;\n",
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text):
    assert difference(own(tmp_path, text)) == pytest.approx(-0.3)


def test_json_rows_with_a_byte_order_mark_and_missing_numbers(tmp_path):
    rows = [
        {"schedule": "none", "accuracy": 0.582, "ci_low": float("nan"), "n": None},
        {"schedule": AIM, "accuracy": 0.579, "ci_low": 0.5, "n": 1000},
    ]
    path = tmp_path / "own.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    table = read_scores([path]).table("all")
    assert table["difference"].tolist() == pytest.approx([0, -0.3])
    assert table["ci_low"].tolist()[1] == 50
    assert pd.isna(table["n"][0]) and table["n"][1] == 1000


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (TABLE + "merge 0.25, prune linear:14:22,57.9,videomme\n", "4 cells under 3 columns"),
        ("schedule,accuracy,accuracy\nnone,1,2\n", "the column 'accuracy' twice"),
        ("schedule;accuracy\nnone;58,2\nmerge 0.5;57.9\n", "a decimal comma in 58,2 and a point"),
        (TABLE + 'merge 0.5,"57,9",videomme\n', "a decimal comma"),
        ("schedule,accuracy\n,58.2\n", "row 1: expected a schedule, got nothing"),
        ("schedule,accuracy\nnone,\n", "accuracy: expected a number, got nothing"),
        ("schedule,accuracy\nnone,5_8\n", "expected a number, got 5_8"),
        ("schedule,accuracy\nnone,infinity\n", "expected a number"),
        ("schedule,accuracy\nnone,-1\n", "a share or percent, from 0 to 100, got -1"),
        ("schedule,accuracy,scale\nnone,58,share\n", "from 0 to 1, got 58"),
        ("schedule,accuracy,scale\nnone,58,degrees\n", "percent, points, share"),
        ("schedule,accuracy,n\nnone,58,1e99\n", "from 1 to 1e9"),
        ("schedule,accuracy\nnone,58\nmerge 0.5,0.5\n", "one scale for all"),
        ("schedule,accuracy,scale\nnone,58,points\nmerge 0.5,0.5,share\n", "in points"),
        (b"PK\x03\x04", "save it as CSV"),
        ("schedule,accuracy\nn\u00f6ne,58\n".encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_a_table_that_could_be_read_in_two_ways_is_refused(tmp_path, text, named):
    with pytest.raises(AimError, match=named) as caught:
        difference(own(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_rows_of_another_model_in_one_table_are_left_out_and_said(tmp_path):
    text = (
        "schedule,accuracy,model\nnone,58.2,\nmerge 0.5,57.9,\n"
        "none,40,llava-1.5-7b\nmerge 0.5,45,llava-1.5-7b\n"
    )
    answer = plan(CASE, accuracy=own(tmp_path, text))
    assert (answer.difference, answer.result.schedule.label()) == (0, "none")
    assert answer.to_row()["accuracy.left_out"] == ["llava-1.5-7b"]
    assert "Left out: scores of llava-1.5-7b" in " ".join(str(answer).split())


def test_points_of_a_table_need_the_word(tmp_path):
    text = "schedule,accuracy,scale\nnone,1530,points\nmerge 0.5,-12,points\n"
    answer = plan(CASE, ttft_s=0.15, accuracy=own(tmp_path, text))
    assert answer.difference == -1542
    with pytest.raises(SpecError, match="write points in a column scale"):
        difference(own(tmp_path, text.replace(",points", ",")))


def test_frames_that_a_table_does_not_name_are_said_beside_the_number(tmp_path):
    text = " ".join(str(plan(CASE, accuracy=own(tmp_path, TABLE))).split())
    assert "58.2 against 58.2 (+0.0), taken as of 32 frames, which its file does not say" in text


@pytest.mark.parametrize("order", [(8, 32), (32, 8)])
def test_the_baseline_is_that_of_the_frames_asked_for(tmp_path, order):
    scores = {8: 50.0, 32: 58.2}
    rows = [f"none,{scores[frames]},{frames}\n" for frames in order]
    rows += [f'"{AIM}",57.9,32\n', f'"{AIM}",51,8\n']
    path = own(tmp_path, "schedule,accuracy,frames\n" + "".join(rows))
    assert plan(CASE, ttft_s=0.15, accuracy=path).difference == pytest.approx(-0.3)
    few = Case("llava-onevision-qwen2-7b", Workload(100, frames=8), "h100-sxm")
    assert plan(few, ttft_s=0.05, accuracy=path).difference == pytest.approx(1)
    notes = read_scores(path).table("all", 32).set_index(["schedule", "frames"])["note"]
    assert notes[AIM, 32] == "" and notes[AIM, 8] == "the baseline of 32 frames"
