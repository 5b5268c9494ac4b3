"""The graph of one prefill as aim_runtime executes it."""

from aim_cost.graph import decoder, reduction, vision
from aim_cost.graph.op import Op, OpGraph
from aim_cost.model import ModelSpec
from aim_cost.trace import TokenTrace
from aim_cost.workload import Execution, Workload


def build_executed(
    model: ModelSpec, workload: Workload, trace: TokenTrace, execution: Execution
) -> OpGraph:
    """All ops from pixels to the logits of the last position, in the order they run."""
    width, text = execution.element_bytes, model.text
    batch, groups = trace.batch, trace.batch * trace.groups
    ops: list[Op] = vision.tower_ops(model.vision, groups, width)
    ops += vision.projector_ops(
        model.vision.hidden_size, text.hidden_size, groups * model.image_tokens, width
    )
    if workload.frames is not None:
        ops += vision.pooling_ops(
            groups, model.image_tokens, trace.merge_tokens[0], text.hidden_size, width
        )
    ops += reduction.merge_ops(groups, trace.merge_tokens, text.hidden_size, width)
    ops += decoder.embedding_ops(batch, trace.prompt_tokens, text.hidden_size, width)
    before = trace.prompt_tokens
    for layer, (tokens, mlp_tokens) in enumerate(
        zip(trace.attention_tokens, trace.mlp_tokens, strict=True)
    ):
        if tokens < before:
            ops += reduction.drop_ops(layer, batch, tokens, text.hidden_size, text.head_dim, width)
        before = tokens
        ops += decoder.layer_ops(text, batch, tokens, mlp_tokens, execution.attention, width, layer)
        if layer in trace.scored_layers:
            ops += reduction.importance_ops(
                layer, batch, tokens, text.num_attention_heads, text.head_dim, width
            )
    ops += decoder.head_ops(text, batch, trace.attention_tokens[-1], width)
    return OpGraph(tuple(ops))
