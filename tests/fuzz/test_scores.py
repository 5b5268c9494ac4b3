"""Tables of scores in the forms that programs write, against the numbers they were made from."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aim_cost import Schedule
from aim_cost.studies.own_accuracy import read_scores
from tests.fuzz.asked import fuzzed, refused
from tests.fuzz.changed import text_changed

SCHEDULES = ["none", "merge 0.5", "merge 0.25, prune linear:14:22", "prune linear:2:6 score=random"]


@st.composite
def measured(draw):
    """Percent of each schedule and benchmark, with two digits; the first schedule is none."""
    chosen = SCHEDULES[: draw(st.integers(1, len(SCHEDULES)))]
    benchmarks = draw(st.lists(st.sampled_from(["a", "b", "c/d"]), min_size=1, unique=True))
    percent = st.integers(150, 10000).map(lambda hundredths: hundredths / 100)
    return {(name, one): draw(percent) for name in benchmarks for one in chosen}


def differences(scores):
    """In points, schedule by schedule, as a person would compute them."""
    return {key: score - scores[key[0], "none"] for key, score in scores.items()}


@st.composite
def table_of(draw, scores):
    """The text of a CSV file: separator, decimal mark, scale, sign, quotes, mark of the bytes."""
    separator = draw(st.sampled_from(",;\t|"))
    comma = separator != "," and draw(st.booleans())
    share, sign = draw(st.sampled_from([(False, ""), (False, "%"), (False, " %"), (True, "")]))
    text = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(text, delimiter=separator, quoting=quoting)
    writer.writerow(["benchmark", "schedule", "accuracy", "", ""][: draw(st.integers(3, 5))])
    for (benchmark, schedule), score in scores.items():
        number = f"{score / 100:.4f}" if share else f"{score:.2f}"
        writer.writerow(
            [benchmark, schedule, (number.replace(".", ",") if comma else number) + sign]
        )
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    first = f"sep={separator}\n" if draw(st.booleans()) else ""
    return (first + text.getvalue()).encode(encoding)


@fuzzed(0.05)
@given(data=st.data())
def test_a_table_in_any_form_says_the_same(data, tmp_path_factory):
    scores = data.draw(measured())
    path = tmp_path_factory.getbasetemp() / "scores.csv"
    path.write_bytes(data.draw(table_of(scores)))
    found = read_scores([path])
    expected = differences(scores)
    for benchmark in {name for name, _ in scores}:
        table = found.table(benchmark)
        for row in table.to_dict("records"):
            key = (benchmark, row["schedule"])
            assert row["difference"] == pytest.approx(expected[key], abs=1e-9)
            assert row["accuracy"] == pytest.approx(scores[key], abs=1e-9)
        assert len(table) == len({one for name, one in scores if name == benchmark})


def results_of(schedule, scores, *, share):
    """A results file of lmms-eval for one schedule, each task with its metric."""
    figures = {
        name: {"alias": name, "acc,none": score / 100 if share else score, "acc_stderr,none": 0.1}
        for (name, one), score in scores.items()
        if one == schedule
    }
    arguments = "pretrained=a/b,max_frames=32"
    if schedule != "none":
        arguments += f",schedule='{schedule}'"
    return {"results": figures, "config": {"model": "x", "model_args": arguments}}


@fuzzed(0.05)
@given(scores=measured(), share=st.booleans(), order=st.randoms(use_true_random=False))
def test_results_of_lmms_eval_say_the_same(scores, share, order, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    paths = []
    for number, schedule in enumerate(dict.fromkeys(one for _, one in scores)):
        paths.append(folder / f"results_{number}.json")
        paths[-1].write_text(json.dumps(results_of(schedule, scores, share=share)))
    order.shuffle(paths)
    found, expected = read_scores(paths), differences(scores)
    for benchmark in {name for name, _ in scores}:
        table = found.table(benchmark)
        labels = {Schedule.parse(row).label() for row in table["schedule"]}
        assert labels == {one for name, one in scores if name == benchmark}
        for row in table.to_dict("records"):
            right = expected[benchmark, row["schedule"]]
            assert row["difference"] == pytest.approx(right, abs=1e-9)


@fuzzed(0.04)
@given(data=st.data())
def test_a_changed_table_reads_or_is_refused(data, tmp_path_factory):
    text = data.draw(table_of(data.draw(measured()))).decode("utf-16", "replace")
    path = tmp_path_factory.getbasetemp() / "changed.csv"
    path.write_text(data.draw(text_changed(text)), encoding="utf-8")
    found = refused(read_scores, [path])
    for name in found.by_benchmark if found is not None else ():
        refused(found.table, name)
