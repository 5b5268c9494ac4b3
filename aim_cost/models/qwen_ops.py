"""The ops of the towers of Qwen2-VL and Qwen2.5-VL, their mergers included; Qwen3-VL shares them.

Source: transformers 5.23, qwen2_vl and qwen2_5_vl, with sdpa.
"""

from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from aim_cost.errors import SpecError
from aim_cost.models.qwen_grid import QwenGrid
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise, EncoderAttention
from aim_cost.ops.op import Op

FLOAT32_BYTES = 4

MOST_KERNELS = 1_000_000
"""The clock of a prefill goes from one to the next: more than these take long."""

Views: TypeAlias = tuple[tuple[QwenGrid, Count], ...]
"""The tower at each resolution, and the number of temporal patches there."""


@lru_cache(maxsize=8)  # the schedules of a case share its tower
def tower_ops(views: Views, width: int) -> tuple[Op, ...]:
    """Ops of the temporal patches of all ``views``, one tower's, all in one sequence.

    transformers starts one sdpa kernel for each segment that attends to itself alone: a temporal
    patch, or a window of one (Qwen2.5-VL, all blocks but four). So does this list: an op for each
    size of segments, run as often as there are any, without padding. FLOPs are those of the
    segments, not of the whole sequence. A number of temporal patches may be a symbol.
    Not counted: the lengths of the segments, which the host reads back from the device before
    every attention; the angles of the positions, which are computed once.
    """
    vision = views[0][0]
    hidden, rows = vision.hidden_size, patches_of(views)
    top = Kernels("vision.tower", width)
    ops = [top.linear("patch_embedding", rows, vision.patch_elements, hidden)]
    if vision.window_size is not None:
        ops.append(top.elementwise("gather", Elementwise.GATHER, rows * hidden, rows * hidden))
    check_kernels(views)
    for block in range(vision.num_hidden_layers):
        ops += block_ops(views, width, block)
    ops += merger_ops(vision, rows, width)
    if vision.window_size is not None:  # back from the order of the windows
        size = rows // vision.spatial_merge_size**2 * vision.output_size
        ops.append(
            Kernels("vision.projector", width).elementwise("gather", Elementwise.GATHER, size, size)
        )
    return tuple(ops)


def check_kernels(views: Views) -> None:
    """Raises: SpecError where the tower would start more kernels than MOST_KERNELS."""
    kernels = sum(
        groups * sum(view.segments(block).values())
        for view, groups in views
        for block in range(view.num_hidden_layers)
    )
    if isinstance(kernels, int) and kernels > MOST_KERNELS:
        raise SpecError(
            "workload",
            expected=f"at most {MOST_KERNELS} kernels of the vision tower's attention",
            got=f"{kernels}, one a temporal patch or window in each block",
            fix="Give fewer or smaller frames or images, or a smaller batch.",
        )


def patches_of(views: Views) -> Count:
    """All patches of ``views``, before the merger."""
    return sum(groups * view.patches for view, groups in views)


def block_ops(views: Views, width: int, block: int) -> list[Op]:
    """Ops of one block over all ``views``."""
    make, vision = Kernels("vision.tower", width, block), views[0][0]
    hidden, heads = vision.hidden_size, vision.num_attention_heads
    rows, head_dim = patches_of(views), hidden // heads
    size = rows * hidden
    # cos and sin stay in float32
    angles = 2 * rows * head_dim * FLOAT32_BYTES // width
    ops = [
        make.elementwise("norm1", _norm(vision), size, size),
        make.linear("qkv", rows, hidden, 3 * hidden, bias=True),
        make.elementwise("rotary", Elementwise.ROTARY, 2 * size + angles, 2 * size),
    ]
    for view, groups in views:
        for patches, times in view.segments(block).items():
            attention = make.attention("sdpa", EncoderAttention, 1, patches, heads, heads, head_dim)
            ops += [replace(op, times=groups * times) for op in attention]
    return [
        *ops,
        make.elementwise("join_segments", Elementwise.COPY, size, size),
        make.linear("proj", rows, hidden, hidden, bias=True),
        make.elementwise("attention_add", Elementwise.ADD, 2 * size, size),
        make.elementwise("norm2", _norm(vision), size, size),
        *_mlp_ops(vision, make, rows),
        make.elementwise("mlp_add", Elementwise.ADD, 2 * size, size),
    ]


def _mlp_ops(vision: QwenGrid, make: Kernels, rows: int) -> list[Op]:
    hidden, inner = vision.hidden_size, vision.intermediate_size
    size = rows * inner
    if not vision.is_gated:
        return [
            make.linear("fc1", rows, hidden, inner, bias=True),
            make.elementwise("activation", Elementwise.ACTIVATION, size, size),
            make.linear("fc2", rows, inner, hidden, bias=True),
        ]
    return [
        make.linear("gate_proj", rows, hidden, inner, bias=True),
        make.elementwise("silu", Elementwise.SILU, size, size),
        make.linear("up_proj", rows, hidden, inner, bias=True),
        make.elementwise("gate_mul", Elementwise.GATE_MUL, 2 * size, size),
        make.linear("down_proj", rows, inner, hidden, bias=True),
    ]


def merger_ops(vision: QwenGrid, patches: Count, width: int) -> list[Op]:
    """The norm of patches, then two layers over squares of patches laid side by side."""
    make = Kernels("vision.projector", width)
    size, tokens = patches * vision.hidden_size, patches // vision.spatial_merge_size**2
    inputs, outputs = vision.hidden_size * vision.spatial_merge_size**2, vision.output_size
    return [
        make.elementwise("ln_q", _norm(vision), size, size),
        make.linear("linear_1", tokens, inputs, inputs, bias=True),
        make.elementwise("gelu", Elementwise.GELU, tokens * inputs, tokens * inputs),
        make.linear("linear_2", tokens, inputs, outputs, bias=True),
    ]


def _norm(vision: QwenGrid) -> Elementwise:
    return Elementwise.RMS_NORM if vision.is_gated else Elementwise.LAYER_NORM
