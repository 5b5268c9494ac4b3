"""LLM-Viewer's op graph, which the published tables of AIM, PruMerge and FiCoCo count.

It counts the LLM alone, with eager attention and 2 bytes an element. Source: AIM's efficiency
tables (arXiv 2412.03248), whose every printed digit this arithmetic reproduces.
"""

from aim_cost.models.model import ModelSpec
from aim_cost.models.text_spec import TextSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.ops import formulas
from aim_cost.ops.op import Op, OpGraph
from aim_cost.schedules.trace import TokenTrace

_ELEMENT_BYTES = 2


def build_llm_viewer(
    model: ModelSpec, workload: Workload, trace: TokenTrace, execution: Execution
) -> OpGraph:
    """The ops that LLM-Viewer counts; ``workload`` and ``execution`` change nothing here."""
    del workload, execution
    text, batch = model.text, trace.batch
    ops: list[Op] = []
    for layer, tokens in enumerate(trace.attention_tokens):
        ops += _layer(text, batch, tokens, layer)
    hidden, vocabulary = text.hidden_size, model.base_vocab_size
    # one FLOP per multiply-add here, unlike everywhere else
    head_flops = batch * hidden * vocabulary
    read = hidden * vocabulary + batch * hidden
    ops.append(_op("lm_head", head_flops, read, batch * vocabulary, None, "llm.head"))
    return OpGraph(tuple(ops))


def _layer(text: TextSpec, batch: int, tokens: int, layer: int) -> list[Op]:
    hidden, inner, heads = text.hidden_size, text.intermediate_size, text.num_attention_heads
    rows = batch * tokens
    size, key_size = rows * hidden, rows * text.key_value_dim
    scores = batch * heads * tokens * tokens
    sizes = (batch, heads, tokens, tokens, text.head_dim)

    def linear(name: str, inputs: int, outputs: int) -> Op:
        flops = formulas.linear_flops(rows, inputs, outputs)
        return _op(name, flops, inputs * outputs + rows * inputs, rows * outputs, layer)

    ops = [
        linear("q_proj", hidden, text.query_dim),
        linear("k_proj", hidden, text.key_value_dim),
        linear("v_proj", hidden, text.key_value_dim),
        # counts q with the width of the grouped keys
        _op("scores", formulas.attention_scores_flops(*sizes), 2 * key_size, scores, layer),
        _op("softmax", 5 * scores, scores, scores, layer),
        _op("values", formulas.attention_values_flops(*sizes), scores + key_size, size, layer),
        linear("o_proj", text.query_dim, hidden),
        _op("attention_norm", 7 * size, size, size, layer),
        _op("attention_add", size, size, size, layer),
        _op("mlp_norm", 7 * size, size, size, layer),
        linear("gate_proj", hidden, inner),
        linear("up_proj", hidden, inner),
        # counts the activation over the hidden size, not the intermediate one
        _op("activation", 2 * size, 2 * size, size, layer),
        linear("down_proj", inner, hidden),
    ]
    if text.model_type != "qwen2":  # the tables of Qwen2 models leave this addition out
        ops.append(_op("mlp_add", size, size, size, layer))
    return ops


def _op(
    name: str, flops: int, reads: int, writes: int, layer: int | None, phase: str = "llm.layers"
) -> Op:
    return Op(name, phase, flops, _ELEMENT_BYTES * reads, _ELEMENT_BYTES * writes, None, layer)
