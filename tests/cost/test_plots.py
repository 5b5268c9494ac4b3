"""Pictures: what is drawn is what was given, and files are written whole."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from aim_cost import (
    AimError,
    Case,
    Execution,
    Schedule,
    Workload,
    estimate,
    load_hardware,
    load_model_spec,
    plots,
)
from aim_cost.cli.main import app
from aim_cost.papers.accuracy import published_accuracy
from aim_cost.plots import (
    PLOTS,
    break_even,
    pareto,
    pareto_front,
    pareto_points,
    payoff,
    roofline,
    save,
    tokens,
    ttft,
)
from aim_cost.plots.methods import methods, spread
from aim_cost.plots.roofline import op_points
from aim_cost.studies.own_accuracy import read_scores

SMALL = load_model_spec("llava-onevision-qwen2-0.5b")
LARGE = load_model_spec("llava-onevision-qwen2-7b")
H100 = load_hardware("h100-sxm")
AIM = Schedule.parse("merge 0.25, prune linear:14:22")


def price(schedule=AIM, model=LARGE, hardware=H100, frames=32, mode="eager"):
    execution = Execution(mode=mode)
    return estimate(model, Workload(100, frames=frames), schedule, hardware, execution)


def texts(figure):
    drawn = [text.get_text() for text in figure.texts]
    return " ".join(drawn).replace("\n", " ")


def test_tokens_draws_the_traces():
    results = [price(Schedule()), price()]
    figure = tokens(results)
    (axis,) = figure.axes
    lines = [patch for patch in axis.patches if hasattr(patch, "get_data")]
    assert [tuple(line.get_data().values) for line in lines] == [
        result.trace.attention_tokens for result in results
    ]
    assert len({(line.get_edgecolor(), line.get_linestyle()) for line in lines}) == 2
    (keys,) = figure.legends
    assert [text.get_text() for text in keys.get_texts()] == [
        *("text, 100", "none", "merge 0.25, prune linear:14:22")
    ]


def test_ttft_bars_add_up_and_whiskers_are_the_band():
    results = [price(Schedule()), price()]
    (axis,) = ttft(results).axes
    for place, result in enumerate(results):
        bars = [container[place] for container in axis.containers[:4]]
        assert sum(bar.get_width() for bar in bars) == pytest.approx(1e3 * result.ttft_s)
        assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(1e3 * result.ttft_s)
    whiskers = [line.get_segments()[0][:, 0] for c in axis.containers[4:] for line in c.lines[2]]
    for ends, result in zip(whiskers, results, strict=True):
        assert list(ends) == pytest.approx([1e3 * result.ttft.low_s, 1e3 * result.ttft.high_s])


def test_ttft_of_a_lower_bound_has_no_whisker_and_says_so():
    figure = ttft([price(mode="ideal")])
    assert len(figure.axes[0].containers) == 4
    assert "lower bound" in texts(figure)


@pytest.mark.parametrize("mode", ["eager", "ideal"])
def test_roofline_points_lie_under_the_roof_and_hold_all_work(mode):
    result = price(mode=mode)
    points = op_points(result)
    assert sum(point.flops for point in points) == result.flops
    ridge = 989.4e12 / 3.35e12
    for point in points:
        assert point.flops_per_s <= min(989.5e12, point.intensity * 3.35e12) * 1.001, point
    if mode == "ideal":
        assert sum(p.time_s for p in points) == pytest.approx(result.ttft_s)
    figure = roofline(result)
    (axis,) = figure.axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    drawn = sum(len(collection.get_offsets()) for collection in axis.collections)
    assert drawn == sum(point.flops > 0 for point in points)
    assert any(f"{ridge:.0f} FLOPs/B" in text.get_text() for text in axis.texts)


def test_pictures_price_with_the_calibration_of_the_case():
    case = Case(SMALL, Workload(100, frames=4), H100, calibration="a100-sxm4-80gb")
    other, own = case.price(AIM), price(AIM, SMALL, frames=4)
    (speedup,) = payoff(other, frames=(4,), text_tokens=(100,)).speedup[0]
    assert speedup == other.baseline.ttft_s / other.ttft_s
    assert speedup != pytest.approx(own.baseline.ttft_s / own.ttft_s, rel=1e-3)
    scores = published_accuracy().assign(model=None, frames=4)
    aim_row = scores[(scores["benchmark"] == "videomme") & (scores["schedule"] == AIM.label())][:1]
    (point,) = pareto_points(aim_row, "videomme", case.price()).to_dict("records")
    assert point["ttft_s"] == other.ttft_s != own.ttft_s


def test_payoff_is_the_ratio_of_two_estimates():
    data = payoff(price(model=SMALL), frames=(4, 64), text_tokens=(100, 200))
    assert data.speedup.shape == (2, 2)
    whole, reduced = (price(s, SMALL, frames=4) for s in (Schedule(), AIM))
    assert data.speedup[0, 0] == pytest.approx(whole.ttft_s / reduced.ttft_s)
    assert data.host_bound[0, 0] and not data.host_bound[0, 1]
    assert data.speedup[0, 0] < 1 < data.speedup[0, 1]
    figure = break_even(data)
    (keys,) = figure.legends
    assert [text.get_text() for text in keys.get_texts()] == [
        "break-even, 1x",
        "the reduced LLM waits for the host more than it computes",
    ]
    pays = payoff(price(model=LARGE), frames=(32, 64), text_tokens=(100, 200))
    assert "pays everywhere" in texts(break_even(pays))


def test_pareto_points_are_recomputed_where_the_schedule_is_known():
    baseline = price(Schedule())
    points = pareto_points(published_accuracy(), "videomme", baseline)
    aim = points[(points["method"] == "AIM") & (points["accuracy_difference"] == 0)]
    result = price()
    assert list(aim["flops"]) == [result.flops - result.phase("vision").flops]
    assert list(aim["ttft_s"]) == [result.ttft_s]
    unknown = points[~points["known"]]
    assert unknown["ttft_s"].isna().all()
    assert set(unknown["method"]) == {"AIM", "PyramidDrop"}
    assert pareto_points(published_accuracy(), "videomme", price(Schedule(), SMALL)).empty


def test_pareto_front_keeps_what_nothing_beats():
    points = pd.DataFrame(
        {
            "flops": [3, 1, 2, 4, 2.5],
            "accuracy_difference": [0, -5, -1, -0.5, 9],
            "known": [True, True, True, True, False],
        }
    )
    assert list(pareto_front(points, "flops")["flops"]) == [1, 2, 3]


def test_pareto_sets_own_rows_apart():
    published = published_accuracy()
    own = published[published["schedule"].notna()].head(8).assign(evidence="own", source="a/b.csv")
    baseline = price(Schedule())
    points = pareto_points(pd.concat([published, own]), "videomme", baseline)
    figure = pareto(points, "videomme", baseline)
    left, right = figure.axes
    assert left.get_xlabel() == "TFLOPs after the vision tower"
    assert right.get_xlabel() == "time to first token (ms)"
    black = [line for line in left.lines if line.get_markeredgecolor() == "black"]
    assert len([line for line in black if line.get_marker() != "None"]) == 8
    steps = [line.get_linestyle() for line in left.lines if line.get_drawstyle() == "steps-post"]
    assert steps == ["-", "--"]
    (keys,) = figure.legends
    names = [text.get_text() for text in keys.get_texts()]
    assert "b.csv" in names and "AIM's paper" in names


SCORES = """benchmark,schedule,accuracy,method,budget
all,none,90,,
all,select 0.5 score=random,70,random,0.5
all,select 0.5 score=vision-attention,80,visionzip,0.5
all,prune linear:2:20,60,fastv:k=3,0.5
all,merge 0.5,75,mine,0.25
all,select 0.5 score=vision-attention,80,fastervlm,0.5
"""


def test_methods_stand_at_their_flops_and_times_with_their_names(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(SCORES)
    baseline = price(Schedule())
    table = read_scores([path]).table("all")
    points = pareto_points(table[table["schedule"] != "none"], "all", baseline)
    figure = methods(points, baseline)
    first, other, below, _ = figure.axes
    assert [axis.get_title(loc="left") for axis in (first, other)] == ["budget 50 %", "budget 25 %"]
    assert [text.get_text() for text in first.texts] == [
        *("fastv:k=3", "random", "visionzip", "fastervlm")
    ]
    for axis, shown in ((first, "flops"), (below, "ttft_s")):
        dots = [line for line in axis.lines if line.get_marker() != "None"]
        half = points[points["budget"] == "50 %"].sort_values("accuracy_difference")
        scale = 1e-12 if shown == "flops" else 1e3
        assert [line.get_xdata()[0] for line in dots] == pytest.approx(list(scale * half[shown]))
        assert [line.get_ydata()[0] for line in dots] == [-30, -20, -10, -10]
        assert [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"] == [-20]
    (keys,) = figure.legends
    assert [text.get_text() for text in keys.get_texts()] == [
        *("before the LLM", "inside it", "baseline", "own")
    ]
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not any(one.overlaps(two) for one, two in combinations(boxes, 2))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.2))
def test_names_are_spread_as_near_as_can_be(wanted, gap):
    wanted = np.sort(wanted)
    places = spread(wanted, gap)
    least = min(gap, 1 / len(wanted))
    assert (np.diff(places) >= least - 1e-9).all()
    assert places[0] >= least / 2 - 1e-9 and places[-1] <= 1 - least / 2 + 1e-9
    apart = len(wanted) == 1 or np.diff(wanted).min() >= gap
    if apart and gap / 2 <= wanted[0] and wanted[-1] <= 1 - gap / 2:
        assert places == pytest.approx(wanted)


def test_small_print_says_what_the_times_are():
    assert "calibration of this device" in texts(roofline(price()))
    l4 = price(hardware=load_hardware("l4"))
    assert "calibration of another device" in texts(ttft([l4]))


def test_text_lies_inside_the_picture_and_apart():
    """Title, legend and small print do not touch each other or the axes."""
    for figure in (tokens([price(Schedule()), price()]), ttft([price()]), roofline(price())):
        figure.draw_without_rendering()
        parts = [*figure.texts, *figure.legends, *figure.axes]
        boxes = [part.get_tightbbox() for part in parts]
        for place, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, parts[place]
            assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 + 1, parts[place]
            assert not any(box.overlaps(other) for other in boxes[:place]), parts[place]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_save_writes_the_format_of_the_suffix(tmp_path, suffix):
    path = tmp_path / f"tokens.{suffix}"
    save(tokens([price()]), path)
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_every_file_of_the_folder_that_draws_is_a_plot():
    shared = {"__init__", "registry", "style"}
    files = {path.stem for path in Path(plots.__file__).parent.glob("*.py")} - shared
    assert {name.replace("-", "_") for name in PLOTS} == files


def test_two_plots_cannot_have_one_name():
    with pytest.raises(ValueError, match="two plots have the name ttft"):
        plots.plot("ttft", "another")(PLOTS["tokens"].draw)
    assert PLOTS["ttft"].shows.startswith("time")


def test_the_help_says_what_each_plot_shows():
    shown = " ".join(CliRunner().invoke(app, ["plot", "--help"]).output.split())
    for name, plot in PLOTS.items():
        assert f"{name}: {plot.shows}" in shown


@pytest.mark.parametrize("kind", ["pareto", "roofline", "tokens", "ttft"])
def test_command_line(tmp_path, kind):
    path = tmp_path / "a.png"
    answer = CliRunner().invoke(app, ["plot", kind, "--out", str(path)])
    assert answer.exit_code == 0, answer.exception
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["pie", "--out", "a.png"], "break-even, methods, pareto, roofline, tokens, ttft"),
        (["tokens", "--out", "a.jpg"], ".pdf, .png, .svg"),
        (["tokens", "--out", "a.png", "--hardware", "h100-sxm,l4"], "one for tokens"),
        (
            ["roofline", "--out", "a.png", "--schedule", "merge 0.5", "--schedule", "none"],
            "one for",
        ),
        (["tokens", "--out", "a.png", "--schedule", "half"], "--schedule"),
        (["pareto", "--out", "a.png", "--benchmark", "mmlu"], "videomme"),
        (["pareto", "--out", "a.png", "--model", "llava-onevision-qwen2-0.5b"], "--accuracy"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, named):
    error = CliRunner().invoke(app, ["plot", *arguments]).exception
    assert isinstance(error, AimError)
    assert named in str(error)
