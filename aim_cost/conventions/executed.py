"""The graph of one prefill as aim_runtime executes it."""

from collections import Counter
from dataclasses import replace

from aim_cost.models import decoder
from aim_cost.models.encoder import feature_ops, image_ops
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.ops import reduction
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise
from aim_cost.ops.op import Op, OpGraph
from aim_cost.ops.scores import LAYER_SCORES, LayerSize
from aim_cost.ops.visual_scores import VISUAL_SCORES, VisualSize
from aim_cost.schedules.trace import TokenTrace


def build_executed(
    model: ModelSpec, workload: Workload, trace: TokenTrace, execution: Execution
) -> OpGraph:
    """All ops from pixels to the logits of the last position, in the order they run.

    ``trace`` says what the last layer computes: see ``TokenTrace.last_needed``.
    """
    width, text = execution.element_bytes, model.text
    batch, groups = trace.batch, trace.batch * trace.groups
    model = workload.sized(model)
    tower = trace.tower_tokens
    if workload.images is not None:
        ops = image_ops(model, workload, width, tokens=tower, attention=trace.tower_attention)
    else:
        ops = feature_ops(
            *(model, [(model.vision, groups)], width),
            video=workload.frames is not None,
            tokens=tower,
            attention=trace.tower_attention,
        )
    for number, counts in trace.merges:
        ops += reduction.merge_ops(
            *(batch * number, counts, text.hidden_size, width),
            by=trace.merged_by,
            levels=model.vision.deepstack_levels,
        )
    if trace.selected_tokens is not None:
        ops += _select_ops(model, trace, trace.selected_tokens, width)
    ops += decoder.embedding_ops(batch, trace.prompt_tokens, text.hidden_size, width)
    before, last = trace.prompt_tokens, len(trace.attention_tokens) - 1
    for layer, (tokens, mlp_tokens) in enumerate(
        zip(trace.attention_tokens, trace.mlp_tokens, strict=True)
    ):
        if tokens < before:
            ops += reduction.drop_ops(layer, batch, tokens, text.hidden_size, text.head_dim, width)
        before = mlp_tokens
        score = LAYER_SCORES[trace.importance] if layer in trace.scored_layers else None
        attention = execution.attention if score is None or score.flash else "eager"
        queries = trace.last_queries if layer == last else None
        ops += decoder.layer_ops(text, batch, tokens, mlp_tokens, attention, width, layer, queries)
        visual = mlp_tokens - trace.text_tokens
        if layer < model.vision.deepstack_levels and visual > 0:
            hidden = text.hidden_size
            if visual < trace.visual_tokens:
                ops += decoder.deepstack_gather_ops(layer, batch, visual, hidden, width)
            ops += decoder.deepstack_ops(layer, batch, mlp_tokens, visual, hidden, width)
        if score is not None:
            size = LayerSize(
                layer=layer,
                batch=batch,
                tokens=tokens,
                text=text,
                width=width,
                text_tokens=trace.text_tokens,
                prompt_tokens=trace.prompt_tokens,
                first=layer == trace.scored_layers[0],
                fused=execution.scoring == "fused",
            )
            ops += score.ops(size)
    ops += decoder.head_ops(text, batch, trace.mlp_tokens[-1], width)
    return OpGraph(tuple(ops))


def _select_ops(model: ModelSpec, trace: TokenTrace, kept: int, width: int) -> list[Op]:
    """Ops of choosing: those of equal images and videos at once, then a gather of what stays."""
    score, ops = VISUAL_SCORES[trace.selected_by], []
    for ranked, number in Counter(trace.selected).items():
        if ranked.chooses:
            size = VisualSize(
                items=trace.batch * number,
                sets=trace.batch * number * ranked.sets,
                tokens=ranked.tokens,
                kept=ranked.kept,
                frames=ranked.frames,
                vision=model.vision,
                hidden=model.text.hidden_size,
                width=width,
                text_tokens=trace.text_tokens,
            )
            ops += score.ops(size)
    gathered = trace.batch * kept * model.text.hidden_size
    gather = Kernels("merge", width).elementwise("gather", Elementwise.GATHER, gathered, gathered)
    return [*ops, replace(gather, times=1 + model.vision.deepstack_levels)]
