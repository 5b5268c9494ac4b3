"""Measured rows: complete, in turn, and safe from what goes wrong on the way."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from aim_cost.case import estimate
from aim_cost.devices.hardware import load_hardware
from aim_cost.errors import AimError, ScheduleError
from aim_cost.models.workload import Workload
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import InputError, MeasurementError
from aim_runtime.measurement import measure as module
from aim_runtime.measurement import row_file
from aim_runtime.measurement.attention_backend import AttentionBackend, chosen_backend
from aim_runtime.measurement.environment import Environment
from aim_runtime.measurement.measure import measure
from aim_runtime.measurement.row_file import read_rows, require_same_software
from aim_runtime.models.load import load
from aim_runtime.patching.cuda_graph import StaticPrefill
from aim_runtime.prompts.inputs import sized_inputs
from tests.runtime.support import FRAME_TOKENS, VIDEO_TOKEN, tiny_llava

WORKLOAD = Workload(text_tokens=11, frames=3, batch=2)
NONE, MERGE, BOTH = (
    Schedule(),
    Schedule.parse("merge frame:5"),
    Schedule.parse("merge frame:5, prune linear:1:4"),
)
ALL = [NONE, MERGE, BOTH]


@pytest.fixture(scope="module")
def loaded():
    return load(tiny_llava().config.to_dict(), "cpu", "float32", random_weights=True)


@pytest.fixture
def order(monkeypatch):
    """The labels of the schedules as they are run; ``order.fail[label]`` is raised instead."""

    class Order(list):
        fail: dict[str, BaseException] = {}  # noqa: RUF012

    order, patched = Order(), module.patched
    order.fail = {}

    @contextmanager
    def observed(model, schedule, **options):
        order.append(schedule.label())
        if schedule.label() in order.fail:
            raise order.fail[schedule.label()]
        with patched(model, schedule, **options) as trace:
            yield trace

    monkeypatch.setattr(module, "patched", observed)
    return order


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


def test_rows_name_their_attention_backend_and_stand_beside_others(loaded, tmp_path):
    path, video = tmp_path / "rows.json", Workload(text_tokens=11, frames=3)
    chosen = chosen_backend(loaded.spec.text, loaded.device, loaded.dtype)
    options = {"repeats": 1, "warmup": 0, "out": path, "resume": True}
    (first,) = measure(loaded, video, [NONE], **options)
    assert first.key.attention_backend == chosen
    (named,) = measure(loaded, video, [NONE], **options, attention=chosen)
    assert named == first  # not measured again
    (math,) = measure(loaded, video, [NONE], **options, attention=AttentionBackend.math)
    assert math.key.attention_backend == "math"
    assert read_rows(path) == [first, math]


def test_an_attention_backend_that_cannot_run_is_an_error_of_its_row(loaded):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (row,) = measure(loaded, WORKLOAD, [NONE], repeats=1, attention=AttentionBackend.efficient)
    assert row.error and row.ttft_s is None


def test_a_driver_that_was_asked_for_memory_is_noted(loaded, monkeypatch):
    counts = iter([0, 5, 5, 5, 5, 7])  # before and after the warm-up, then each timed run
    monkeypatch.setattr(module._Prefill, "_driver_allocations", lambda self: next(counts))
    (row,) = measure(loaded, WORKLOAD, [NONE], repeats=2, warmup=1)
    assert row.driver_allocations == 2
    monkeypatch.undo()
    (row,) = measure(loaded, WORKLOAD, [NONE], repeats=1, warmup=0)
    assert row.driver_allocations is None  # nobody counts on a CPU


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


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (1, -1), (1.5, 0)])
def test_counts_that_are_none(loaded, repeats, warmup):
    with pytest.raises(MeasurementError, match="whole number"):
        measure(loaded, WORKLOAD, [NONE], repeats=repeats, warmup=warmup)


def test_inputs_have_exactly_the_tokens_of_the_workload(loaded):
    inputs = sized_inputs(loaded, WORKLOAD, seed=4)
    ids, pixels = inputs["input_ids"], inputs["pixel_values_videos"]
    visual = ids == VIDEO_TOKEN
    assert ids.shape == inputs["attention_mask"].shape == (2, 3 * FRAME_TOKENS + 1 + 11)
    assert (visual.sum(1) == 3 * FRAME_TOKENS + 1).all()
    assert not visual[:, 0].any()
    assert not visual[:, -1].any()
    assert not (ids == loaded.config.image_token_id).any()
    assert ids[~visual].unique().numel() > 10
    assert pixels.shape == (2, 3, 3, 75, 75)
    assert pixels.std().item() == pytest.approx(1, rel=0.05)
    assert not torch.equal(pixels[0], pixels[1])
    again, other = sized_inputs(loaded, WORKLOAD, seed=4), sized_inputs(loaded, WORKLOAD, seed=5)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    assert not torch.equal(ids, other["input_ids"])


def test_an_image_that_is_cut_is_given_by_its_size(loaded):
    with pytest.raises(InputError, match="--image HEIGHTxWIDTH"):
        sized_inputs(loaded, Workload(text_tokens=5, image_tokens=9))


def test_the_last_layer_is_one_for_all_schedules(loaded, tmp_path):
    path, video = tmp_path / "rows.json", Workload(text_tokens=11, frames=3)
    (whole,) = measure(loaded, video, [NONE], repeats=1, warmup=0, out=path)
    rows = measure(
        *(loaded, video, [NONE, BOTH]),
        **{"repeats": 1, "warmup": 0, "out": path, "resume": True, "last_layer": "needed"},
    )
    assert [row.key.run.last_layer for row in rows] == ["needed", "needed"]
    assert read_rows(path) == [whole, *rows] and whole.key.run.last_layer == "all"
    with pytest.raises(MeasurementError, match="all with the execution masked"):
        measure(loaded, video, [BOTH], execution="masked", last_layer="needed")


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


def test_masked_rows_stand_beside_those_that_drop(loaded, tmp_path):
    path, pruned = tmp_path / "rows.json", Schedule.parse("prune linear:1:3")
    video = Workload(text_tokens=11, frames=3)
    (dropped,) = measure(loaded, video, [pruned], repeats=1, warmup=0, out=path)
    (kept,) = measure(
        loaded, video, [pruned], repeats=1, warmup=0, out=path, resume=True, execution="masked"
    )
    assert dropped.tokens_per_layer[-1] < kept.tokens_per_layer[-1]
    assert kept.phase_s["importance"] > 0
    assert read_rows(path) == [dropped, kept]
    with pytest.raises(MeasurementError, match="cuda-graph, eager, masked"):
        measure(loaded, video, [pruned], execution="graph")


def test_a_replayed_prefill_has_a_ttft_and_no_phases(loaded, monkeypatch):
    built = []

    class Replayed:
        """What GraphedPrefill is, without a graph: a CPU has none."""

        def __init__(self, loaded, schedule, inputs, **options):
            self._static = StaticPrefill(loaded, schedule, inputs, **options)
            built.append(schedule)

        trace = property(lambda self: self._static.trace)

        def replay(self):
            return self._static.run()

    monkeypatch.setattr(module, "GraphedPrefill", Replayed)
    pruned, video = Schedule.parse("prune linear:1:3"), Workload(text_tokens=11, frames=3)
    rows = measure(loaded, video, [NONE, pruned], repeats=2, warmup=1, execution="cuda-graph")
    assert built == [NONE, pruned] or built == [pruned, NONE]  # captured once each
    for row in rows:
        assert row.error is None
        assert row.ttft_s > 0
        assert row.phase_s["llm"] is None
    assert rows[1].tokens_per_layer[-1] < rows[0].tokens_per_layer[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_graphs_without_cuda_are_refused(loaded):
    with pytest.raises(AimError, match="cuda"):
        measure(loaded, WORKLOAD, [NONE], repeats=1, execution="cuda-graph")
