"""SigLIP's pooling head: one extra token attends to those of an image, then an MLP runs.

transformers runs it, although a LLaVA reads only the layers. Source:
SiglipMultiheadAttentionPooling.
"""

from typing import Any

from aim_cost.models.linear import Linear, parameters_of
from aim_cost.models.vision_spec import TowerSpec
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise, EncoderAttention
from aim_cost.ops.op import Op


def head_linears(vision: TowerSpec) -> tuple[Linear, ...]:
    """The matrices of its MLP, paths inside the tower; those of its attention are no modules."""
    hidden, inner = vision.hidden_size, vision.intermediate_size
    return (
        Linear(("head.mlp.fc1",), hidden, inner, bias=True),
        Linear(("head.mlp.fc2",), inner, hidden, bias=True),
    )


def head_parameters(vision: TowerSpec) -> int:
    """The token; queries, keys, values and their output; a norm; the MLP."""
    hidden = vision.hidden_size
    attention = 4 * (hidden * hidden + hidden)
    return hidden + attention + 2 * hidden + parameters_of(head_linears(vision))


def head_ops(vision: Any, images: Count, width: int) -> list[Op]:
    """Ops over ``images`` at once; the attention writes its scores, the weights are asked for."""
    make = Kernels("vision.tower", width)
    hidden, heads, rows = vision.hidden_size, vision.num_attention_heads, images * vision.tokens
    size, inner, both = images * hidden, images * vision.intermediate_size, 2 * rows * hidden
    return [
        make.linear("head_q_proj", images, hidden, hidden, bias=True),
        make.linear("head_kv_proj", rows, hidden, 2 * hidden, bias=True),
        make.elementwise("head_kv_copy", Elementwise.COPY, both, both),
        *make.attention(
            "eager",
            EncoderAttention,
            images,
            vision.tokens,
            heads,
            heads,
            hidden // heads,
            queries=1,
        ),
        make.linear("head_out_proj", images, hidden, hidden, bias=True),
        make.elementwise("head_norm", Elementwise.LAYER_NORM, size, size),
        make.linear("head_fc1", images, hidden, vision.intermediate_size, bias=True),
        make.elementwise("head_activation", Elementwise.ACTIVATION, inner, inner),
        make.linear("head_fc2", images, vision.intermediate_size, hidden, bias=True),
        make.elementwise("head_add", Elementwise.ADD, 2 * size, size),
    ]
