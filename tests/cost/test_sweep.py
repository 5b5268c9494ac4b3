"""Sweeps equal ``estimate``, row for row: integers exactly, times to the last few bits."""

import pickle
import random
from itertools import product

import numpy as np
import pandas as pd
import pytest

from aim_cost import (
    Case,
    Execution,
    Schedule,
    Workload,
    estimate,
    load_hardware,
    load_model_spec,
    pairs,
    sweep,
)
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.models.workload import VisualInput
from aim_cost.sweeps import Grid, all_rows, chunk, chunks, schedule
from aim_cost.sweeps.benchmark import benchmark
from aim_cost.sweeps.best import best_rows
from aim_cost.sweeps.grid import CHUNK_ROWS
from aim_cost.sweeps.tokens import layer_tokens

SMALL, LARGE = (load_model_spec(f"llava-onevision-qwen2-{size}") for size in ("0.5b", "7b"))
H100 = load_hardware("h100-sxm")
COUNTS = [f"{part}.flops" for part in ("vision", "merge", "llm", "importance", "total")]
TIMES = [f"{part}.time_s" for part in ("vision", "merge", "llm", "importance")] + ["ttft_s"]
AIM = (14, 22)


def grid(**axes):
    usual = {
        "models": (SMALL,),
        "hardware": (H100,),
        "executions": (Execution(),),
        "frames": (8, 32),
        "text_tokens": (100,),
        "retentions": (1.0, 0.25),
        "prunes": (None, AIM),
    }
    return Grid(**usual | axes)


def assert_equals_estimate(row, rows_grid):
    (model,) = (m for m in rows_grid.models if m.name == row["model"])
    (hardware,) = (h for h in rows_grid.hardware if h.name == row["hardware"])
    pruned = not pd.isna(row["prune.l1"])
    prune = (int(row["prune.l1"]), int(row["prune.l2"])) if pruned else None
    expected = estimate(
        model,
        Workload(int(row["text_tokens"]), frames=int(row["frames"]), batch=int(row["batch"])),
        schedule(float(row["merge.retention"]), prune),
        hardware,
        Execution(
            *(row["dtype"], row["attention"], row["execution"]), last_layer=row["last_layer"]
        ),
    )
    said = expected.to_row()
    assert row["prompt_tokens"] == expected.trace.prompt_tokens
    for name in (*COUNTS, "kv_cache_bytes"):
        assert int(row[name]) == said[name], name
    for name in TIMES:
        assert row[name] == pytest.approx(said[name], rel=1e-9, abs=1e-15), name
    assert row["source"] == said["source"]


def random_grid(seed, hardware, execution):
    """Axes of a few values each: any frames, texts, retention ratios, pairs of layers."""
    pick = random.Random(seed)
    starts = pick.sample(range(24), 3)
    return grid(
        models=(SMALL, LARGE),
        hardware=(hardware,),
        executions=(execution,),
        frames=tuple(pick.sample(range(1, 193), 2)),
        text_tokens=tuple(pick.sample(range(1, 501), 2)),
        retentions=(1.0, 0.006, *(pick.uniform(0.006, 1) for _ in range(3))),
        prunes=(None, *((l1, pick.randint(l1 + 1, 40)) for l1 in starts)),
        batch=pick.choice((1, 2)),
    )


@pytest.mark.parametrize(
    ("hardware", "execution"),
    [
        ("h100-sxm", Execution()),
        ("a100-sxm4-80gb", Execution(mode="cuda-graph")),
        ("l40s", Execution(attention="eager")),
        ("b200-sxm", Execution(mode="ideal")),
        ("cpu-generic", Execution("float32")),
        ("h200-sxm", Execution("float32", mode="cuda-graph")),
        ("h200-sxm", Execution(last_layer="needed")),
        ("l4", Execution(attention="eager", mode="ideal", last_layer="needed")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_random_rows_equal_the_estimate(hardware, execution):
    """Inherited calibrations, rooflines, other widths and eager attention included."""
    axes = random_grid(f"{hardware} {execution}", load_hardware(hardware), execution)
    rows = all_rows(axes)
    assert len(rows) == axes.rows
    for _, row in rows.sample(16, random_state=0).iterrows():
        assert_equals_estimate(row, axes)


@pytest.mark.parametrize(
    "name", ["llava-next-video-7b", "qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-2b"]
)
def test_other_towers_equal_the_estimate(name):
    """Pooled before the projector; an op a temporal patch; an op a window."""
    both = (Execution(), Execution(mode="cuda-graph"))  # bound by the host, and by the device
    axes = grid(models=(load_model_spec(name),), executions=both, frames=(1, 6), batch=2)
    for _, row in all_rows(axes).iterrows():
        assert_equals_estimate(row, axes)


def test_tokens_are_those_of_the_schedule_for_every_pair_of_layers():
    """Where a ratio times a count lands beside a whole number, truncation must agree."""
    layers, pick = 28, random.Random(0)
    prunes = [(l1, l2) for l1 in range(layers) for l2 in (*range(l1 + 1, layers + 2), 94)]
    schedules = [schedule(1, prune) for prune in prunes]
    ratios = np.array([s.prune.ratio_after_layer(layers) for s in schedules]).T
    for frames in pick.sample(range(1, 193), 12):
        text = pick.randint(1, 500)
        visual = VisualInput(frames, 49, 1)
        expected = [s.resolve_visual(visual, text_tokens=text, layers=layers) for s in schedules]
        count = np.full(len(prunes), frames * 49 + 1)
        found = list(layer_tokens(ratios, count, text + 0 * count, np.arange(len(prunes))))
        tokens = np.array([trace.attention_tokens for trace in expected]).T
        scored = [[layer in t.scored_layers for t in expected] for layer in range(layers)]
        assert np.array_equal(np.stack([n for n, _, _ in found]), tokens)
        assert np.array_equal(np.stack([s for _, _, s in found]), scored)


def test_every_combination_is_one_row_and_knows_its_axes():
    axes = grid(
        hardware=(H100, load_hardware("l40s")),
        executions=(Execution(), Execution(mode="ideal")),
        frames=tuple(range(1, 150)),
        retentions=(1.0, 0.5, 0.25),
        prunes=pairs((None, *range(20)), tuple(range(1, 24))),
    )
    assert axes.setting_rows > CHUNK_ROWS
    names = ["hardware", "execution", "frames", "merge.retention", "prune.l1", "prune.l2"]
    rows = pd.concat(chunk(axes, i, times=False) for i in range(axes.chunks))[names]
    assert len(rows) == axes.rows == len(rows.drop_duplicates())
    for name, values in (("frames", axes.frames), ("merge.retention", axes.retentions)):
        assert set(rows[name]) == set(values)
    assert rows["prune.l1"].isna().sum() * len(axes.prunes) == len(rows)


def test_models_turn_slowest_and_executions_fastest():
    devices = (H100, load_hardware("l40s"), load_hardware("a10"))
    axes = grid(
        models=(SMALL, LARGE), hardware=devices, executions=(Execution(), Execution(mode="ideal"))
    )
    found = [axes.case(place) for place in range(axes.settings)]
    assert [(case.model, case.device, case.execution) for case in found] == list(
        product(axes.models, axes.hardware, axes.executions)
    )


def test_a_chunk_is_a_pure_function_of_what_can_be_pickled():
    axes = grid()
    frame = chunk(pickle.loads(pickle.dumps(axes)), 0)
    pd.testing.assert_frame_equal(frame, chunk(axes, 0))
    pd.testing.assert_frame_equal(frame, all_rows(grid(frames=[8, 32])))


def test_counts_alone_are_the_same_counts():
    counts, everything = all_rows(grid(), times=False), all_rows(grid())
    assert not set(counts) & {*TIMES, "source"}
    pd.testing.assert_frame_equal(counts, everything[list(counts)])


def test_a_sweep_of_many_settings_stays_one_table():
    """Sources differ from setting to setting: calibrated, inherited, datasheet."""
    axes = grid(
        hardware=(H100, load_hardware("l40s")), executions=(Execution(), Execution(mode="ideal"))
    )
    rows = all_rows(axes)
    assert list(rows["source"].unique()) == ["calibrated", "datasheet", "inherited"]
    assert isinstance(rows["source"].dtype, pd.CategoricalDtype)


def test_the_schedule_of_a_row():
    assert schedule(1.0, None) == Schedule()
    assert schedule(0.25, AIM) == Schedule.parse("merge 0.25, prune linear:14:22")


def test_pairs_keep_l1_below_l2():
    assert pairs((None, 3, 1), (2, 4)) == (None, (3, 4), (1, 2), (1, 4))
    with pytest.raises(ScheduleError, match="l1 < l2"):
        pairs((5,), (5, 4))


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"frames": ()}, SpecError, "sweep.frames: expected one value"),
        ({"frames": 8}, SpecError, "sweep.frames: expected a list"),
        ({"frames": (0,)}, SpecError, "frames"),
        ({"text_tokens": (0,)}, SpecError, "text_tokens"),
        ({"retentions": (0.001,)}, ScheduleError, "tokens kept of 196"),
        ({"prunes": ((24, 25),)}, ScheduleError, "l1 below 24"),
        ({"models": (load_model_spec("llava-1.5-7b"),)}, SpecError, "takes video"),
        ({"executions": (Execution(scoring="fused"),)}, SpecError, "scoring: expected torch"),
    ],
)
def test_axes_that_no_estimate_would_take(axes, error, message):
    with pytest.raises(error, match=message):
        grid(**axes)


def test_numbers_that_would_wrap_around_or_fill_the_memory_are_refused():
    with pytest.raises(SpecError, match=r"2\*\*62 FLOPs"):
        chunk(grid(frames=(40_000,), models=(LARGE,)), 0, times=False)
    with pytest.raises(SpecError, match="at most 500000 tokens"):
        chunk(grid(frames=(6000,)), 0)
    with pytest.raises(SpecError, match="0 to 0, the chunks"):
        chunk(grid(), 1)


def test_a_sweep_around_a_case_varies_what_is_given_and_keeps_the_rest():
    execution = Execution("float16", mode="cuda-graph", last_layer="needed")
    case = Case(SMALL, Workload(60, frames=12, batch=2), "h100-sxm", execution, "a100-sxm4-80gb")
    rows = sweep(case, merge=(1, 0.25), prune=[None, AIM])
    assert list(rows["merge.retention"]) == [1, 1, 0.25, 0.25]
    for _, row in rows.iterrows():
        prune = None if pd.isna(row["prune.l1"]) else AIM
        said = case.price(schedule(row["merge.retention"], prune)).to_row()
        for name in ("frames", "text_tokens", "batch", "dtype", "execution", "total.flops"):
            assert row[name] == said[name], name
        assert row["ttft_s"] == pytest.approx(said["ttft_s"], rel=1e-9)
        assert row["source"] == "inherited"
    assert set(sweep(case, frames=range(1, 4), text_tokens=[7, 9], times=False)["frames"]) == {
        1,
        2,
        3,
    }


@pytest.mark.parametrize(
    ("workload", "axes", "message"),
    [
        (Workload(100, image_tokens=729), {}, "a video"),
        (Workload(100, images=((384, 384),)), {}, "a video"),
        (Workload(100, frames=8, frame_size=(384, 384)), {}, "frame_size"),
        (Workload(100, frames=8), {"frames": 16}, r"frames=\[16\]"),
        (Workload(100, frames=8), {"merge": 0.5}, r"merge=\[0.5\]"),
    ],
)
def test_a_case_that_no_sweep_knows_is_refused(workload, axes, message):
    with pytest.raises(SpecError, match=message):
        sweep(Case(SMALL, workload, H100), **axes)


def test_the_best_rows_of_all_chunks():
    axes = grid(frames=(8, 4, 16), hardware=(H100, load_hardware("l40s")))
    best = best_rows(chunks(axes), 7)
    everything = all_rows(axes)["ttft_s"].sort_values()
    assert list(best["ttft_s"]) == list(everything[:7])


def test_the_benchmark_counts_schedules_per_second():
    result = benchmark(grid().case(0), repeats=1)
    assert result["flops_schedules_per_s"] > result["time_schedules_per_s"] > 0
    assert (result["cores"], result["statistic"]) == (1, "median")
