"""Ops of the LLM's decoder layers and of its head, as transformers runs them."""

from typing import Any

from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import CausalAttention, Elementwise
from aim_cost.ops.op import Op


def embedding_ops(batch: Count, tokens: Count, hidden: Count, width: int) -> list[Op]:
    """Token embeddings, and the visual tokens scattered among them."""
    make = Kernels("llm.layers", width)
    size = batch * tokens * hidden
    return [
        make.elementwise("embed_tokens", Elementwise.EMBED_TOKENS, size, size),
        make.elementwise("scatter_visual", Elementwise.SCATTER_VISUAL, 2 * size, size),
    ]


def layer_ops(
    text: Any,
    batch: Count,
    attention_tokens: Count,
    mlp_tokens: Count,
    attention: str,
    width: int,
    layer: int | None = None,
    queries: Count | None = None,
) -> list[Op]:
    """Ops of one decoder layer. ``text``: a TextSpec, or symbols.

    With fewer ``mlp_tokens`` the others leave after the attention: the output projection and all
    that follows runs on those that stay. With ``queries``, only the last so many tokens have
    queries, and ``mlp_tokens`` is that number too.
    Source: Qwen2, Qwen3, Llama and Mistral in transformers.
    """
    make = Kernels("llm.layers", width, layer)
    hidden, inner = text.hidden_size, text.intermediate_size
    query, key = text.query_dim, text.key_value_dim
    rows, mlp_rows = batch * attention_tokens, batch * mlp_tokens
    query_rows = rows if queries is None else batch * queries
    leave = query + hidden + 2 * text.head_dim  # attention output, residual, cos and sin
    if queries is not None:
        leave = 2 * hidden  # residual, and its norm for the queries
    bias, mlp_bias = text.has_qkv_bias, text.has_mlp_bias
    return [
        make.elementwise("input_norm", Elementwise.RMS_NORM, rows * hidden, rows * hidden),
        make.linear("q_proj", query_rows, hidden, query, bias),
        make.linear("k_proj", rows, hidden, key, bias),
        make.linear("v_proj", rows, hidden, key, bias),
        *_head_norm_ops(text, make, query_rows * query, rows * key),
        make.elementwise(
            "rotary",
            Elementwise.ROTARY,
            query_rows * query + rows * key + 2 * attention_tokens * text.head_dim,
            query_rows * query + rows * key,
        ),
        make.elementwise("cache_append", Elementwise.CACHE_APPEND, 2 * rows * key, 2 * rows * key),
        *make.attention(
            attention,
            CausalAttention,
            batch,
            attention_tokens,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.head_dim,
            queries,
        ),
        *_leave_ops(make, attention_tokens, mlp_tokens, batch, leave),
        make.linear("o_proj", mlp_rows, query, hidden, text.has_output_bias),
        make.elementwise(
            "attention_add", Elementwise.ADD, 2 * mlp_rows * hidden, mlp_rows * hidden
        ),
        make.elementwise(
            "post_attention_norm", Elementwise.RMS_NORM, mlp_rows * hidden, mlp_rows * hidden
        ),
        make.linear("gate_proj", mlp_rows, hidden, inner, mlp_bias),
        make.linear("up_proj", mlp_rows, hidden, inner, mlp_bias),
        make.elementwise("silu", Elementwise.SILU, mlp_rows * inner, mlp_rows * inner),
        make.elementwise("gate_mul", Elementwise.GATE_MUL, 2 * mlp_rows * inner, mlp_rows * inner),
        make.linear("down_proj", mlp_rows, inner, hidden, mlp_bias),
        make.elementwise("mlp_add", Elementwise.ADD, 2 * mlp_rows * hidden, mlp_rows * hidden),
    ]


def _head_norm_ops(text: Any, make: Kernels, query: Count, key: Count) -> list[Op]:
    """Norms of the heads of q and k, elements each, where the LLM has them."""
    if not text.has_head_norms:
        return []
    return [
        make.elementwise("q_norm", Elementwise.RMS_NORM, query, query),
        make.elementwise("k_norm", Elementwise.RMS_NORM, key, key),
    ]


def deepstack_ops(
    layer: int, batch: Count, tokens: Count, visual: Count, hidden: Count, width: int
) -> list[Op]:
    """DeepStack after ``layer``: features are added to the ``visual`` of its ``tokens``.

    transformers copies the hidden states, gathers the visual ones, adds, and scatters the sums.
    Source: transformers 5.24, qwen3_vl.
    """
    copies = deepstack_copy_ops(layer, batch, tokens, hidden, width)
    return [*copies, *deepstack_add_ops(layer, batch, visual, hidden, width)]


def deepstack_copy_ops(
    layer: int | None, batch: Count, tokens: Count, hidden: Count, width: int
) -> list[Op]:
    """The part of ``deepstack_ops`` that depends on all tokens."""
    size = batch * tokens * hidden
    make = Kernels("llm.layers", width, layer)
    return [make.elementwise("deepstack_copy", Elementwise.COPY, size, size)]


def deepstack_add_ops(
    layer: int | None, batch: Count, visual: Count, hidden: Count, width: int
) -> list[Op]:
    """The part of ``deepstack_ops`` that depends on the visual tokens."""
    size = batch * visual * hidden
    make = Kernels("llm.layers", width, layer)
    return [
        make.elementwise("deepstack_visual", Elementwise.GATHER, size, size),
        make.elementwise("deepstack_add", Elementwise.ADD, 2 * size, size),
        make.elementwise("deepstack_scatter", Elementwise.SCATTER_VISUAL, size, size),
    ]


def deepstack_gather_ops(
    layer: int | None, batch: Count, visual: Count, hidden: Count, width: int
) -> list[Op]:
    """Gather of the features of ``visual`` tokens, where others have left the LLM."""
    size = batch * visual * hidden
    make = Kernels("llm.layers", width, layer)
    return [make.elementwise("deepstack_gather", Elementwise.GATHER, size, size)]


def _leave_ops(make: Kernels, tokens: Count, stay: Count, batch: Count, width: Count) -> list[Op]:
    """Gather of the tokens that stay, ``width`` elements each."""
    if tokens == stay:
        return []
    return [
        make.elementwise("gather", Elementwise.GATHER, batch * stay * width, batch * stay * width)
    ]


def head_ops(text: Any, batch: Count, tokens: Count, width: int) -> list[Op]:
    """The final norm over all ``tokens`` and the logits of the last position."""
    make = Kernels("llm.head", width)
    hidden = text.hidden_size
    size = batch * tokens * hidden
    return [
        Kernels("llm.layers", width).elementwise("final_norm", Elementwise.RMS_NORM, size, size),
        make.linear("lm_head", batch, hidden, text.vocab_size),
    ]
