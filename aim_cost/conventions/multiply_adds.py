"""The multiply-adds of the LLM's layers as papers on token reduction count them.

One function per convention: the MACs of one layer for one prompt. ``n`` tokens enter the layer,
``k`` are left after its attention, for output projection and MLP: the papers write n for both.
d hidden size, m width of the MLP, dk width of the keys. Ints give an int, symbols an expression.
Attention is counted in full, nothing but matrix products is counted. Source: each method's
released code.
"""

from collections.abc import Callable
from typing import Any

from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.ops.count import Count
from aim_cost.ops.op import Op, OpGraph
from aim_cost.schedules.trace import TokenTrace

LayerMacs = Callable[[Any, Count, Count], Count]
"""(text: a TextSpec or symbols, n, k) -> MACs."""


def fastv_layer_macs(text: Any, n: Count, k: Count) -> Count:
    """Keys and values as wide as queries, an MLP of two matrices. Source: FastV, 2403.06764."""
    d, m = text.hidden_size, text.intermediate_size
    return (3 * n + k) * d**2 + 2 * n**2 * d + 2 * k * d * m


def pdrop_layer_macs(text: Any, n: Count, k: Count) -> Count:
    """Keys and values as wide as queries, a gated MLP. Source: PyramidDrop, 2410.17247."""
    d, m = text.hidden_size, text.intermediate_size
    return (3 * n + k) * d**2 + 2 * n**2 * d + 3 * k * d * m


def fastvid_layer_macs(text: Any, n: Count, k: Count) -> Count:
    """Grouped keys and values, a gated MLP. Source: FastVID, 2503.11187."""
    d, m, dk = text.hidden_size, text.intermediate_size, text.key_value_dim
    return (n + k) * d**2 + 2 * n * d * dk + 2 * n**2 * d + 3 * k * d * m


def build_multiply_adds(
    layer_macs: LayerMacs,
    model: ModelSpec,
    workload: Workload,
    trace: TokenTrace,
    execution: Execution,
) -> OpGraph:
    """One op a layer, with 2 FLOPs per MAC. It has no traffic: these conventions count none.

    ``workload`` and ``execution`` change nothing here.
    """
    del workload, execution
    counts = zip(trace.attention_tokens, trace.mlp_tokens, strict=True)
    return OpGraph(
        tuple(
            Op("layer", "llm.layers", 2 * trace.batch * layer_macs(model.text, n, k), 0, 0, None, i)
            for i, (n, k) in enumerate(counts)
        )
    )
