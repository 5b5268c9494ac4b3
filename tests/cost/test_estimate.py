"""The op graph, the conventions and the estimate."""

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from aim_cost import Execution, Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_cost.case import memory
from aim_cost.conventions.convention import CONVENTIONS, EXECUTED, LLM_VIEWER, get_convention
from aim_cost.errors import SpecError
from aim_cost.models.decoder import layer_ops
from aim_cost.models.model import preset_names
from aim_cost.ops.op import OpGraph
from aim_cost.ops.reduction import importance_ops, merge_ops
from aim_cost.papers.efficiency import published_rows
from aim_cost.sweeps import symbols
from tests.cost.blocks import block_causal_entries

MODEL = load_model_spec("llava-onevision-qwen2-7b")
A100 = load_hardware("a100-sxm4-40gb")
VIDEO = Workload(text_tokens=100, frames=32)
AIM = Schedule.parse("merge 0.25, prune linear:14:22")


def price(schedule, convention=EXECUTED, **kwargs):
    return estimate(MODEL, VIDEO, schedule, A100, convention=convention, **kwargs)


def test_the_integers_of_the_7b_model():
    # counted by torch.utils.flop_counter on the real classes: ../shared/facts/aim.md section 4
    assert price(Schedule()).phase("vision").flops == 21_329_576_460_288
    assert price(Schedule()).phase("llm").flops == 99_475_654_713_344
    merged = price(Schedule.parse("merge 0.25"))
    assert merged.phase("llm").flops == 22_900_649_762_816
    assert merged.phase("merge").flops == 2_753_658_880
    aim = price(AIM)
    assert aim.phase("llm").flops == 15_527_245_547_520
    assert (
        aim.phase("llm").flops + aim.phase("importance").flops
        == 15_527_245_547_520 + 41_349_456_344
    )
    assert price(Schedule()).memory.kv_cache_bytes == 365_453_312
    assert aim.memory.kv_cache_bytes == 65_173_504


def test_phases_add_up():
    result = price(AIM)
    groups = [result.phase(name) for name in ("vision", "merge", "llm", "importance")]
    assert sum(g.flops for g in groups) == result.flops
    assert sum(g.time_s for g in groups) == pytest.approx(result.ttft_s)


@pytest.mark.parametrize("row", published_rows(), ids=lambda row: row.label)
def test_the_published_table_to_its_printed_digits(row):
    stated = row.to_row()
    if row.reproduced_by is None:
        assert stated["computed.tflops"] == row.tflops
        assert stated["computed.prefill_ms"] == row.prefill_ms
        assert stated["agrees"]
    else:
        assert not stated["agrees"]
        assert f"{row.tflops} TFLOPs, {row.prefill_ms} ms" in stated["note"]


def test_the_inconsistent_rows_as_the_formula_gives_them():
    # ../shared/facts/aim.md section 5
    rows = [row.to_row() for row in published_rows() if row.reproduced_by]
    assert [(r["computed.tflops"], r["computed.prefill_ms"]) for r in rows] == [
        ("7.75", "28.71"),
        ("4.50", "17.22"),
        ("2.89", "11.89"),
        ("2.10", "9.94"),
    ]


@given(st.integers(1, 5000), st.integers(1, 3))
def test_symbolic_ops_equal_the_counted_ones(tokens, batch):
    text, symbol = MODEL.text, symbols.TEXT
    values = {
        symbols.n: tokens,
        symbols.B: batch,
        symbol.hidden_size: text.hidden_size,
        symbol.intermediate_size: text.intermediate_size,
        symbol.num_attention_heads: text.num_attention_heads,
        symbol.num_key_value_heads: text.num_key_value_heads,
        symbol.head_dim: text.head_dim,
    }
    symbolic = OpGraph(tuple(layer_ops(symbol, symbols.B, symbols.n, symbols.n, "eager", 2)))
    counted = OpGraph(tuple(layer_ops(text, batch, tokens, tokens, "eager", 2)))
    for name in ("flops", "read_bytes", "write_bytes"):
        assert getattr(symbolic, name).subs(values) == getattr(counted, name)


def test_closed_forms():
    n, h, d = symbols.n, symbols.TEXT.num_attention_heads, symbols.TEXT.head_dim
    (op,) = importance_ops(0, 1, n, h, d, 2)
    for tokens in (1, 255, 256, 257, 1669, 9400):
        found, entries = op.flops.subs(n, tokens), block_causal_entries(tokens)
        assert sympy.simplify(found - h * entries * (2 * d + 10)) == 0
        assert (entries == tokens**2) == (tokens <= 256)
    passes = merge_ops(symbols.F, (symbols.t, symbols.t - 1), symbols.TEXT.hidden_size, 2)
    flops = OpGraph(tuple(passes)).flops
    assert flops.subs({symbols.F: 1, symbols.t: 25, symbols.TEXT.hidden_size: 7}) == 2 * 13 * 12 * 7


def test_a_block_of_the_score_is_the_largest_that_hides_behind_the_mlp(monkeypatch):
    def fits(text):
        mlp = 3 * 10_000 * text.intermediate_size * 2
        return memory.scoring_bytes(text, 1, 10_000, 2) <= mlp

    texts = [load_model_spec(name).text for name in preset_names()]
    assert all(fits(text) for text in texts)
    monkeypatch.setattr(memory, "IMPORTANCE_ROWS", 2 * memory.IMPORTANCE_ROWS)
    assert not all(fits(text) for text in texts)


def test_eager_attention_writes_the_scores_and_adds_no_flops():
    sdpa, eager = price(Schedule()), price(Schedule(), execution=Execution(attention="eager"))
    assert eager.flops == sdpa.flops
    scores = 28 * 28 * 6373**2 * 2
    assert eager.graph.write_bytes - sdpa.graph.write_bytes == 2 * scores  # logits, probabilities


def test_batch_multiplies_everything_but_weights():
    one, two = (
        estimate(MODEL, Workload(100, frames=8, batch=batch), AIM, A100) for batch in (1, 2)
    )
    assert two.flops == 2 * one.flops
    assert two.memory.kv_cache_bytes == 2 * one.memory.kv_cache_bytes
    assert two.memory.weights_bytes == one.memory.weights_bytes


def test_llava_15_runs_all_layers_of_clip():
    model = load_model_spec("llava-1.5-7b")
    result = estimate(model, Workload(40, image_tokens=576), Schedule(), A100)
    layers = {op.layer for op in result.graph.phase("vision.tower")} - {None}
    assert layers == set(range(24))
    assert not result.graph.phase("vision.pooling").ops


def test_rows_have_one_schema_under_every_convention():
    rows = [price(AIM, convention).to_row() for convention in CONVENTIONS.values()]
    assert rows[0].keys() == rows[1].keys()
    assert rows[1]["vision.flops"] == 0
    assert "vision tower" in rows[1]["not_counted"]
    assert get_convention("llm-viewer") is LLM_VIEWER


def test_unknown_names_list_the_known_ones():
    with pytest.raises(SpecError, match="llm-viewer"):
        get_convention("macs")
    with pytest.raises(SpecError, match="bfloat16"):
        Execution(dtype="int4")
    with pytest.raises(SpecError, match="sdpa"):
        Execution(attention="flash")
