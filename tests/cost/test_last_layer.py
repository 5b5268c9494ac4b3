"""A last layer priced for its last token alone: exact where it is counted, refused elsewhere."""

import dataclasses

import pytest

from aim_cost import (
    Case,
    Execution,
    Schedule,
    Workload,
    estimate,
    load_hardware,
    load_model_spec,
    plan,
)
from aim_cost.conventions.convention import CONVENTIONS
from aim_cost.errors import SpecError
from aim_cost.ops.kind import RowAttention
from aim_cost.schedules.prune import Prune
from aim_cost.sweeps.closed_forms import B as BATCH
from aim_cost.sweeps.closed_forms import closed_form, function, n, text_values

LARGE, H100 = load_model_spec("llava-onevision-qwen2-7b"), load_hardware("h100-sxm")
WORKLOAD = Workload(text_tokens=100, frames=32)
NEEDED = Execution(last_layer="needed")


def price(schedule=None, execution=NEEDED, workload=WORKLOAD, **options):
    return estimate(LARGE, workload, schedule or Schedule(), H100, execution, **options)


def test_saved_flops_are_those_of_all_tokens_but_one():
    whole, needed = price(execution=Execution()), price()
    tokens, text = 6373, LARGE.text
    hidden, inner = text.hidden_size, text.intermediate_size
    each = 2 * (2 * hidden * hidden + 3 * hidden * inner)  # q, o and the MLP
    attention = 4 * text.num_attention_heads * text.head_dim * tokens
    assert whole.flops - needed.flops == (tokens - 1) * (each + attention)
    assert needed.memory.kv_cache_bytes == whole.memory.kv_cache_bytes
    assert needed.memory.peak_bytes < whole.memory.peak_bytes
    assert needed.trace.attention_tokens == whole.trace.attention_tokens
    assert not needed.trace.reduces


def test_the_ops_of_the_other_layers_are_the_same():
    schedule = Schedule.parse("merge 0.25, prune linear:14:22")
    whole, needed = (price(schedule, each).graph for each in (Execution(), NEEDED))
    assert [op for op in whole if op.layer != 27 and op.name not in ("final_norm",)] == [
        op for op in needed if op.layer != 27 and op.name not in ("final_norm",)
    ]
    kinds = {op.name: op.kind for op in needed if op.layer == 27 and op.phase == "llm.layers"}
    assert kinds["k_proj"].m == kinds["v_proj"].m == 100
    assert {kinds[name].m for name in ("q_proj", "o_proj", "gate_proj", "down_proj")} == {1}
    assert kinds["attention"] == RowAttention(tokens=100, queries=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", ["eager", "cuda-graph", "ideal"])
def test_one_query_is_bound_by_memory(attention, mode):
    """As long as reading keys and values once, not as all queries would take."""
    execution = Execution(attention=attention, mode=mode, last_layer="needed")
    whole, needed = (
        price(execution=dataclasses.replace(execution, last_layer="all")),
        price(execution=execution),
    )
    ratio = (whole.ttft_s - needed.ttft_s) / whole.time("llm").time_s
    assert 0.01 < ratio < 0.1
    if attention == "sdpa" and mode != "ideal":
        (op,) = (op for op in needed.graph if isinstance(op.kind, RowAttention))
        found = needed.time_model.model.time(op)
        read_s = op.bytes / H100.memory_bandwidth_bytes_per_s
        assert read_s < found.low_s < found.time_s < found.high_s < 10 * read_s
        assert found.extrapolated


def test_scores_of_the_last_layer_are_not_needed():
    schedule = Schedule(prune=Prune(ratios=(1,) * 27 + (0.5,), drop_point="after_attention"))
    whole, needed = price(schedule, Execution()), price(schedule)
    assert whole.trace.scored_layers == (27,) and whole.phase("importance").flops > 0
    assert needed.trace.scored_layers == () and needed.phase("importance").flops == 0
    assert needed.graph.ops == price().graph.ops


def test_the_closed_form_is_that_of_the_graph():
    form = closed_form("last-layer")
    count = function(form.expression, (n,), text_values(LARGE) | {BATCH: 3})
    found = price(workload=dataclasses.replace(WORKLOAD, batch=3))
    assert count(6373) == sum(op.flops for op in found.graph.phase("llm") if op.layer == 27)


@pytest.mark.parametrize("name", [name for name in CONVENTIONS if name != "executed"])
def test_papers_count_whole_layers(name):
    with pytest.raises(SpecError, match=f"convention {name} counts whole layers"):
        price(convention=CONVENTIONS[name])


def test_what_cannot_follow_refuses():
    with pytest.raises(SpecError, match="all, needed"):
        Execution(last_layer="last")
    with pytest.raises(SpecError, match="whole layers"):
        plan(Case(LARGE, WORKLOAD, H100, NEEDED))


def test_a_row_says_how_the_last_layer_runs():
    assert price().to_row()["last_layer"] == "needed"
