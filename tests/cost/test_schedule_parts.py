"""What the parts of a schedule mean: selection, counts, scores, injection, and their price."""

import pytest

from aim_cost.case import estimate
from aim_cost.devices.hardware import load_hardware
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.models.model import load_model_spec
from aim_cost.models.workload import Execution, VisualInput, Workload
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.select import Select
from tests.cost.blocks import block_causal_entries

MODEL = load_model_spec("llava-onevision-qwen2-7b")
IMAGE = VisualInput(groups=1, group_tokens=576, newline_tokens=0)


def resolve(schedule, layers=8, text=10):
    return schedule.resolve_visual(IMAGE, text_tokens=text, layers=layers)


def test_defaults_are_not_written():
    assert Schedule(Merge(0.25), Prune(linear=(14, 22))).to_dict() == {
        "merge": {"retention": 0.25},
        "prune": {"linear": [14, 22]},
    }


def test_counts_after_each_layer():
    trace = resolve(Schedule(prune=Prune(tokens=(576, 576, 300, 300, 110))))
    assert [n - 10 for n in trace.attention_tokens] == [576, 576, 576, 300, 300, 110, 110, 110]
    assert trace.scored_layers == (2, 4)
    with pytest.raises(ScheduleError, match="at most 576"):
        resolve(Schedule(prune=Prune(tokens=(577,))))


def test_selection_counts_all_tokens_or_those_of_a_frame():
    video = VisualInput(groups=4, group_tokens=196, newline_tokens=1)
    for select, kept in ((Select(tokens=64), 64), (Select(tokens_per_frame=49), 196)):
        trace = Schedule(select=select).resolve_visual(video, text_tokens=5, layers=2)
        assert trace.selected_tokens == kept
        assert trace.attention_tokens == (kept + 1 + 5,) * 2
        assert trace.reduces
    half = Schedule(Merge(0.5), select=Select(retention=0.5))
    assert half.resolve_visual(video, text_tokens=5, layers=2).selected_tokens == 4 * 98 // 2
    with pytest.raises(ScheduleError, match="1 to 784 tokens"):
        Schedule(select=Select(tokens=785)).resolve_visual(video, text_tokens=5, layers=2)


def test_injection_hides_visual_tokens_from_the_first_layers():
    trace = resolve(Schedule(prune=Prune(ratios=(1, 1, 1, 1, 0.5, 0), inject_at=3)))
    assert [n - 10 for n in trace.attention_tokens] == [0, 0, 0, 576, 576, 288, 0, 0]
    with pytest.raises(ScheduleError, match="below 8"):
        resolve(Schedule(prune=Prune(ratios=(1,), inject_at=8)))


def test_tokens_that_leave_after_the_attention_skip_the_mlp():
    between = resolve(Schedule(prune=Prune(linear=(2, 4))))
    inside = resolve(Schedule(prune=Prune(linear=(2, 4), drop_point="after_attention")))
    assert inside.attention_tokens == between.attention_tokens
    assert inside.mlp_tokens == (*between.attention_tokens[1:], 10)
    assert inside.scored_layers == between.scored_layers == (2,)


def test_what_leaves_after_the_attention_is_priced():
    early, late = (
        price(Schedule(prune=Prune(linear=(14, 22), drop_point=point)))
        for point in ("after_attention", "layer")
    )
    text = MODEL.text
    rows = sum(early.trace.attention_tokens) - sum(early.trace.mlp_tokens)
    saved = 2 * rows * text.hidden_size * (text.query_dim + 3 * text.intermediate_size)
    assert rows > 0
    assert late.flops - early.flops == saved


def price(schedule, frames=32):
    workload = Workload(text_tokens=100, frames=frames)
    return estimate(MODEL, workload, schedule, load_hardware("h100-sxm"))


@pytest.mark.parametrize("name", LAYER_SCORES)
def test_each_score_in_the_llm_is_priced(name):
    result = price(Schedule(prune=Prune(ratios=(1, 0.5), importance=name)))
    score = LAYER_SCORES[name]
    explicit = [op.layer for op in result.graph if op.name == "softmax"]
    assert explicit == ([] if score.flash else [1])
    free = not [op for op in result.graph if op.phase == "importance"]
    assert (result.phase("importance").time_s == 0) == free
    assert result.ttft_s < price(Schedule()).ttft_s


ELEMENTWISE = (
    *("adjacent-cosine", "groups-of-four", "groups-of-four-loop", "frame-centres", "pooled-grid"),
)
"""Scores without a matrix product."""


@pytest.mark.parametrize("name", VISUAL_SCORES)
def test_each_score_before_the_llm_is_priced(name):
    result = price(Schedule(select=Select(retention=0.25, by=name)))
    ops = [op.name for op in result.graph.phase("merge")]
    free = name in ("random", "uniform")
    assert ops == ["gather"] if free else len(ops) > 1
    assert (result.phase("merge").flops == 0) == (free or name in ELEMENTWISE)


def test_costs_of_scores_come_from_their_products():
    n, text = 32 * 196 + 1 + 100, MODEL.text
    flops = {
        name: price(Schedule(prune=Prune(ratios=(1, 0.5), importance=name)))
        .phase("importance")
        .flops
        for name in LAYER_SCORES
    }
    entries = text.num_attention_heads * block_causal_entries(n)
    assert flops["pagerank-causal"] == 2 * entries * (text.head_dim + 1)
    assert flops["pagerank"] == 2 * entries * (text.head_dim + 5)
    row = 2 * text.num_attention_heads * n * text.head_dim
    assert flops["text-attention"] == row
    # the query of the last token, keys of all
    projections = 2 * text.hidden_size * (text.query_dim + n * text.key_value_dim)
    assert flops["next-layer-query"] == row + projections
    # rows of the 100 text tokens, after a product of all embeddings with those of the text
    assert flops["rater-attention"] == 100 * row + 2 * n * 100 * text.hidden_size
    assert flops["layer-change"] == 0
    assert flops["pivot-similarity"] == 2 * n * text.hidden_size * 8


@pytest.mark.parametrize("name", LAYER_SCORES)
def test_what_ranks_by_a_whole_layer_drops_nothing_inside_it(name):
    inside = {"ratios": (1, 0.5), "importance": name, "drop_point": "after_attention"}
    if not LAYER_SCORES[name].whole_layer:
        Prune(**inside)
        return
    with pytest.raises(ScheduleError, match=f"drop_point: expected layer with {name}"):
        Prune(**inside)


def test_fused_scoring_computes_more_and_starts_fewer_kernels():
    aim = Schedule.parse("merge 0.25, prune linear:14:22")
    workload, hardware = Workload(text_tokens=100, frames=32), load_hardware("h100-sxm")
    plain, fused = (
        estimate(MODEL, workload, aim, hardware, Execution(scoring=scoring))
        for scoring in ("torch", "fused")
    )
    text = MODEL.text
    squares = sum(plain.trace.attention_tokens[layer] ** 2 for layer in plain.trace.scored_layers)
    an_entry = 2 * text.num_attention_heads * (6 * text.head_dim + 5)
    assert fused.phase("importance").flops == an_entry * squares
    assert fused.phase("importance").flops > 9 * plain.phase("importance").flops
    assert fused.phase("llm").flops == plain.phase("llm").flops
    assert fused.phase("importance").time_s < plain.phase("importance").time_s
    assert fused.time("importance").extrapolated == 1
    assert fused.memory.peak_bytes <= plain.memory.peak_bytes
    with pytest.raises(SpecError, match="fused, torch"):
        Execution(scoring="triton")
