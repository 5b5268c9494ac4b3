"""Schedules, and the integers they resolve to."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aim_cost import Schedule, Workload, load_model_spec
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import TokenRule

MODEL = load_model_spec("llava-onevision-qwen2-7b")
VIDEO = Workload(text_tokens=100, frames=32)

ratios = st.lists(st.floats(0, 1), min_size=1, max_size=28).map(lambda r: sorted(r, reverse=True))
merges = st.one_of(
    st.floats(0.01, 1).map(lambda r: Merge(retention=r)),
    st.integers(1, 196).map(lambda n: Merge(tokens_per_frame=n)),
)
prunes = st.one_of(
    st.tuples(st.integers(0, 27), st.integers(1, 40))
    .filter(lambda pair: pair[0] < pair[1])
    .map(lambda pair: Prune(linear=pair)),
    ratios.map(lambda r: Prune(ratios=tuple(r))),
)
schedules = st.builds(Schedule, st.none() | merges, st.none() | prunes)


def test_aim_default_on_the_7b_model():
    trace = Schedule(Merge(retention=0.25), Prune(linear=(14, 22))).resolve(MODEL, VIDEO)
    # 32 * 49 + 1 newline + 100; layer 15 is the first to lose tokens; 22..27 see text only
    assert trace.merge_tokens == (196, 98, 49)
    assert trace.attention_tokens == (
        *[1669] * 15, 1472, 1276, 1080, 884, 688, 492, 296, *[100] * 6
    )  # fmt: skip
    assert trace.scored_layers == tuple(range(14, 21))


def test_published_rule_charges_the_layer_itself_and_no_newline():
    rule = TokenRule(counts_newline=False, layer_delay=0)
    trace = Schedule(Merge(retention=0.25), Prune(linear=(14, 22))).resolve(MODEL, VIDEO, rule)
    assert trace.attention_tokens[13:16] == (1668, 1472, 1276)
    assert trace.attention_tokens[21] == 100


@pytest.mark.parametrize(
    ("merge", "counts"),
    [
        (Merge(retention=0.125), (196, 98, 49, 25, 24)),
        (Merge(retention=0.5), (196, 98)),
        (Merge(retention=1), (196,)),
        (Merge(tokens_per_frame=12), (196, 98, 49, 25, 13, 12)),
        (Merge(passes=(98, 49, 25)), (196, 98, 49, 25)),
        (Merge(passes=[180, 100]), (196, 180, 100)),
    ],
)
def test_merge_counts(merge, counts):
    assert merge.token_counts(196) == counts


@given(st.integers(1, 2000), st.floats(0.001, 1))
def test_any_ratio_keeps_its_floor_and_no_pass_removes_more_than_half(tokens, ratio):
    if int(tokens * ratio) == 0:
        with pytest.raises(ScheduleError):
            Merge(retention=ratio).token_counts(tokens)
        return
    counts = Merge(retention=ratio).token_counts(tokens)
    assert counts[-1] == int(tokens * ratio)
    assert all(0 < a - b <= a // 2 for a, b in pairwise(counts))


@given(schedules, st.integers(1, 64), st.integers(1, 500))
def test_traces_never_grow_and_always_keep_the_text(schedule, frames, text_tokens):
    workload = Workload(text_tokens=text_tokens, frames=frames)
    try:
        trace = schedule.resolve(MODEL, workload)
    except ScheduleError:  # a ratio too small to keep one token
        assert schedule.merge.retention * 196 < 1
        return
    tokens = trace.attention_tokens
    assert len(tokens) == 28
    assert tokens[0] == trace.prompt_tokens  # layer 0 is never pruned
    assert all(a >= b >= text_tokens for a, b in pairwise(tokens))
    assert set(trace.scored_layers) == {
        layer for layer in range(27) if text_tokens < tokens[layer + 1] < tokens[layer]
    }


def test_the_official_float_expression_is_used():
    # V * ratio is a hair below a whole number, which int() cuts; V * ratio + P rounds up to it
    visual, text, ratio = 10, 100, 1 - 4 / 5
    assert int(visual * ratio) + text != int(visual * ratio + text)
    trace = Schedule(prune=Prune(ratios=(ratio,))).resolve_visual(
        VisualInput(1, visual, 0), text_tokens=text, layers=2
    )
    assert trace.attention_tokens[1] == int(visual * ratio + text)


@given(schedules)
def test_files_read_back(tmp_path_factory, schedule):
    folder = tmp_path_factory.mktemp("schedules")
    for name in ("s.yaml", "s.json"):
        schedule.save(folder / name)
        assert Schedule.load(folder / name) == schedule
        assert Schedule.from_argument(str(folder / name)) == schedule


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"merge": {"retention": 0}}, "merge.retention"),
        ({"merge": {"retention": 1.2}}, "merge.retention"),
        ({"merge": {"retention": float("nan")}}, "merge.retention"),
        ({"merge": {"retention": "0.25"}}, "merge.retention"),
        ({"merge": {}}, "exactly one"),
        ({"merge": {"retention": 0.5, "tokens_per_frame": 3}}, "exactly one"),
        ({"merge": {"tokens_per_frame": 0}}, "tokens_per_frame"),
        ({"merge": {"passes": 98}}, "merge.passes"),
        ({"merge": 0.25}, "schedule.merge"),
        ({"prune": {"linear": [22, 14]}}, "l1 < l2"),
        ({"prune": {"linear": [14, 14]}}, "l1 < l2"),
        ({"prune": {"linear": [14]}}, "prune.linear"),
        ({"prune": {"linear": [1.5, 3]}}, "prune.linear"),
        ({"prune": {"ratios": [0.5, 0.75]}}, "ratios[1]"),
        ({"prune": {"ratios": [1.5]}}, "ratios[0]"),
        ({"prune": {"ratios": []}}, "prune.ratios"),
        ({"prune": {"linear": [1, 2], "ratios": [1]}}, "exactly one"),
        ({"pruning": {}}, "schedule.pruning"),
        ({"prune": {"from": 3}}, "schedule.prune.from"),
        ([], "mapping"),
    ],
)
def test_bad_schedules_are_named(data, named):
    with pytest.raises(ScheduleError) as error:
        Schedule.from_dict(data)
    assert named in str(error.value)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(merge=Merge(passes=(97,))),  # more than half in one pass
        Schedule(merge=Merge(passes=(196,))),
        Schedule(merge=Merge(tokens_per_frame=197)),
        Schedule(prune=Prune(linear=(28, 30))),
        Schedule(prune=Prune(ratios=(1.0,) * 29)),
    ],
)
def test_schedules_that_do_not_fit_the_model(schedule):
    with pytest.raises(ScheduleError):
        schedule.resolve(MODEL, VIDEO)


def test_bad_yaml_is_one_clear_error(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("merge: {retention: 0.25")
    with pytest.raises(ScheduleError, match="expected YAML, got while parsing a flow mapping"):
        Schedule.load(path)


def test_workloads_are_video_or_image():
    with pytest.raises(SpecError, match="either"):
        Workload(text_tokens=10)
    with pytest.raises(SpecError, match="either"):
        Workload(text_tokens=10, frames=1, image_tokens=5)
    with pytest.raises(SpecError, match="text_tokens"):
        Workload(text_tokens=-1, frames=1)
    llava = load_model_spec("llava-1.5-7b")
    assert Workload(40, image_tokens=576).visual_input(llava) == VisualInput(1, 576, 0)
    assert Workload(40, image_tokens=72).visual_input(llava) == VisualInput(1, 72, 0)
    five = VisualInput(5, 576, 0, several=(((1, 576),),) * 5)
    assert Workload(40, image_tokens=2880).visual_input(llava) == five
    with pytest.raises(SpecError, match="equal crops"):
        Workload(40, image_tokens=577).visual_input(llava)
