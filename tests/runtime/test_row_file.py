"""Rows on disk: continued, never lost, never mixed with those of another machine."""

import json
from dataclasses import replace

import pytest
import torch

from aim_cost.models.workload import Workload
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement import measure as module
from aim_runtime.measurement import row_file
from aim_runtime.measurement.environment import Environment
from aim_runtime.measurement.measure import measure
from aim_runtime.measurement.row_file import read_rows, require_same_software

WORKLOAD = Workload(text_tokens=11, frames=3, batch=2)
NONE, MERGE, BOTH = (
    Schedule(),
    Schedule.parse("merge frame:5"),
    Schedule.parse("merge frame:5, prune linear:1:4"),
)
ALL = [NONE, MERGE, BOTH]


def test_resume_keeps_what_is_complete_and_does_the_rest(loaded, order, tmp_path):
    path = tmp_path / "rows.json"
    order.fail[BOTH.label()] = RuntimeError("broken")
    first = measure(loaded, WORKLOAD, [NONE, BOTH], repeats=2, warmup=0, out=path)
    other = Workload(text_tokens=12, frames=2)
    order.fail.clear()
    measure(loaded, other, [NONE], repeats=1, warmup=0, out=path, resume=True)
    order.clear()
    second = measure(loaded, WORKLOAD, ALL, repeats=2, warmup=0, out=path, resume=True)
    assert NONE.label() not in order
    assert sorted(order) == sorted([MERGE.label(), BOTH.label()] * 2)
    assert second[0] == first[0]
    assert [row.error for row in second] == [None] * 3
    assert len(read_rows(path)) == 4
    measure(loaded, WORKLOAD, [NONE], repeats=3, warmup=0, out=path, resume=True)
    assert order.count(NONE.label()) == 3  # two repeats are not three
    measure(loaded, WORKLOAD, [NONE], repeats=1, warmup=0, out=path)
    assert len(read_rows(path)) == 1  # without resume the file starts anew


def test_files_say_where_they_were_measured(loaded, tmp_path):
    for name in ("rows.json", "rows.csv"):
        measure(loaded, WORKLOAD, [NONE, BOTH], repeats=1, warmup=0, out=tmp_path / name)
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["environment"]["torch"] == torch.__version__
    header, *lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert list(content["rows"][0]) == header.split(",")
    assert len(lines) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"rows.json", "rows.csv"}


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [1]}', '{"rows": [{"model": "m"}]}'])
def test_another_file_is_not_continued(loaded, tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(MeasurementError, match="rows that measure wrote"):
        measure(loaded, WORKLOAD, [NONE], repeats=1, out=path, resume=True)
    assert path.read_text() == content


def test_a_row_cut_short_stays_until_a_better_one_is_there(loaded, monkeypatch, tmp_path):
    """Else a second interrupt would leave fewer rounds than the first."""
    path, original, calls = tmp_path / "rows.json", module._Prefill._sample, 0

    def interrupted(self):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(module._Prefill, "_sample", interrupted)
    options = {"repeats": 5, "warmup": 0, "out": path, "resume": True}
    (first,) = measure(loaded, WORKLOAD, [NONE], **options)
    assert first.repeats == 3
    calls = 2
    (second,) = measure(loaded, WORKLOAD, [NONE], **options)
    assert second == first and read_rows(path) == [first]
    calls = 4
    (third,) = measure(loaded, WORKLOAD, [NONE], **options)
    assert third.repeats == 5 and read_rows(path) == [third]


def test_rows_that_were_never_timed_are_not_written(loaded, monkeypatch, tmp_path):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(module._Prefill, "_sample", interrupted)
    path = tmp_path / "rows.json"
    (row,) = measure(loaded, WORKLOAD, [NONE], out=path)
    assert row.ttft_s is None
    assert not path.exists()


@pytest.mark.parametrize(("name", "refused"), [("cpu", False), ("gpu", True), ("torch", True)])
def test_a_file_of_another_machine(name, refused):
    now = Environment(torch="2", transformers="5", cuda="13", gpu="NVIDIA H100", cpu="a CPU")
    then = replace(now, **{name: "another"})
    if refused:
        with pytest.raises(MeasurementError, match=f"environment.{name}"):
            require_same_software(then, now, "rows.json")
    else:
        require_same_software(then, now, "rows.json")
        with pytest.raises(MeasurementError, match=r"environment\.cpu"):
            require_same_software(replace(then, gpu=None), replace(now, gpu=None), "rows.json")


def test_the_environment_is_asked_once_a_file(loaded, monkeypatch, tmp_path):
    asked, original = [], row_file.environment
    monkeypatch.setattr(row_file, "environment", lambda: asked.append(1) or original())
    measure(loaded, WORKLOAD, [NONE], repeats=4, warmup=1, out=tmp_path / "rows.json")
    assert len(asked) == 1


def test_rows_that_say_nothing_of_the_last_layer_are_resumed(loaded, tmp_path):
    path, video = tmp_path / "rows.json", Workload(text_tokens=11, frames=3)
    rows = measure(loaded, video, [NONE], repeats=1, warmup=0, out=path)
    content = json.loads(path.read_text())
    del content["rows"][0]["last_layer"]
    path.write_text(json.dumps(content))
    assert measure(loaded, video, [NONE], repeats=1, out=path, resume=True) == rows


def test_rows_of_other_images_stay_beside_each_other(loaded, tmp_path):
    path, sizes = tmp_path / "rows.json", [((100, 140),), ((150, 150), (70, 80))]
    rows = []
    for images in (*sizes, *sizes):
        image = Workload(text_tokens=9, images=images)
        rows += measure(loaded, image, [NONE], repeats=1, warmup=0, out=path, resume=True)
    assert rows[:2] == rows[2:]  # nothing was measured again
    assert sorted(map(str, read_rows(path))) == sorted(map(str, rows[:2]))
    assert [row.key.run.workload.images for row in rows[:2]] == sizes
    assert rows[0].to_row()["images"] == [[100, 140]]
    assert all(row.error is None for row in rows)
