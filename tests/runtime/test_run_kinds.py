"""How a schedule is run: masked, as a graph, through another attention; each has its own rows."""

import pytest
import torch

from aim_cost.errors import AimError
from aim_cost.models.workload import Workload
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement import measure as module
from aim_runtime.measurement.attention_backend import AttentionBackend, chosen_backend
from aim_runtime.measurement.measure import measure
from aim_runtime.measurement.row_file import read_rows
from aim_runtime.patching.cuda_graph import StaticPrefill

NONE, BOTH = Schedule(), Schedule.parse("merge frame:5, prune linear:1:4")
WORKLOAD = Workload(text_tokens=11, frames=3, batch=2)


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
