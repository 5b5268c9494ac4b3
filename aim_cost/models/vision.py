"""Ops of the vision tower, the projector and the pooling of video frames."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from aim_cost.models import qwen_vision
from aim_cost.models.model import ModelSpec
from aim_cost.models.vision_spec import QwenVisionSpec
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise, EncoderAttention
from aim_cost.ops.op import Op
from aim_cost.ops.reduction import match_ops

_INDEX_BYTES = 8


def feature_ops(
    model: ModelSpec,
    groups: Count,
    width: int,
    *,
    video: bool,
    tokens: Sequence[int] = (),
    attention: str = "proportional",
) -> list[Op]:
    """All ops from pixels to the visual tokens of ``groups`` frames, crops or temporal patches.

    Frames of a ``video`` are pooled where the model has a pooling, before or after the projector.
    ``tokens`` and ``attention``: of a tower that merges, see ``tower_ops``; never a Qwen tower.
    A symbol of ``groups`` needs a tower that takes all of them at once: SigLIP's or CLIP's.
    """
    vision, hidden = model.vision, model.text.hidden_size
    if isinstance(vision, QwenVisionSpec):
        return qwen_vision.tower_ops([(vision, groups)], width)
    ops = tower_ops(vision, groups, width, tokens, attention)
    before, pooling = model.image_tokens, model.pooling if video else None
    if pooling is None:
        return ops + projector_ops(vision.hidden_size, hidden, groups * before, width)
    after = model.frame_tokens
    if pooling.before_projector:
        ops += pooling_ops(groups, before, after, vision.hidden_size, width)
        return ops + projector_ops(vision.hidden_size, hidden, groups * after, width)
    ops += projector_ops(vision.hidden_size, hidden, groups * before, width)
    return ops + pooling_ops(groups, before, after, hidden, width)


def tower_ops(
    vision: Any,
    images: Count,
    width: int,
    tokens: Sequence[Count] = (),
    attention: str = "proportional",
) -> list[Op]:
    """Ops of a ViT over ``images`` frames or crops at once. ``vision``: a VisionSpec, or symbols.

    Args: tokens, where some are merged inside the tower, those of an image entering each layer and
        those after the last, as ``TokenTrace.tower_tokens``; attention, as in VisionMerge.
    Every layer runs, whichever is read: that is what transformers executes. The attention is sdpa.
    CLIP's norm over all tokens comes first, before the layers; its last one takes the class token
    alone and is left out.
    """
    hidden = vision.hidden_size
    rows = images * vision.tokens
    window = vision.num_channels * vision.patch_size**2
    top = Kernels("vision.tower", width)
    patch_rows = images * vision.patches
    ops = [
        top.linear("patch_embedding", patch_rows, window, hidden),
        top.elementwise(
            "position_embedding",
            Elementwise.POSITION_EMBEDDING,
            rows * hidden + vision.tokens * hidden,
            rows * hidden,
        ),
    ]
    counts = tokens or (vision.tokens,) * (vision.num_hidden_layers + 1)
    for layer, (before, after) in enumerate(pairwise(counts)):
        make = Kernels("vision.tower", width, layer)
        if before != vision.tokens and attention == "proportional":
            ops.append(
                make.elementwise("log_sizes", Elementwise.COPY, images * before, images * before)
            )
        ops += _attention_ops(vision, make, images, before)
        if after != before:
            ops += _merge_ops(vision, make, images, before, after)
        ops += _mlp_ops(vision, make, images * after)
    if counts[-1] != vision.tokens:
        places = _INDEX_BYTES * rows // width
        ops.append(
            top.elementwise("gather", Elementwise.GATHER, places + rows * hidden, rows * hidden)
        )
    return [
        *ops,
        top.elementwise("post_layernorm", Elementwise.LAYER_NORM, rows * hidden, rows * hidden),
    ]


def _attention_ops(vision: Any, make: Kernels, images: Count, tokens: Count) -> list[Op]:
    hidden, heads, rows = vision.hidden_size, vision.num_attention_heads, images * tokens
    return [
        make.elementwise("layer_norm1", Elementwise.LAYER_NORM, rows * hidden, rows * hidden),
        *(make.linear(f"{n}_proj", rows, hidden, hidden, bias=True) for n in "qkv"),
        *make.attention("sdpa", EncoderAttention, images, tokens, heads, heads, hidden // heads),
        make.linear("out_proj", rows, hidden, hidden, bias=True),
        make.elementwise("attention_add", Elementwise.TOWER_ADD, 2 * rows * hidden, rows * hidden),
    ]


def _mlp_ops(vision: Any, make: Kernels, rows: Count) -> list[Op]:
    hidden, inner = vision.hidden_size, vision.intermediate_size
    return [
        make.elementwise("layer_norm2", Elementwise.LAYER_NORM, rows * hidden, rows * hidden),
        make.linear("fc1", rows, hidden, inner, bias=True),
        make.elementwise("activation", Elementwise.ACTIVATION, rows * inner, rows * inner),
        make.linear("fc2", rows, inner, hidden, bias=True),
        make.elementwise("mlp_add", Elementwise.TOWER_ADD, 2 * rows * hidden, rows * hidden),
    ]


def _merge_ops(vision: Any, make: Kernels, images: Count, before: Count, after: Count) -> list[Op]:
    """Matching by the mean of the keys over heads, the averages, and where each place went."""
    hidden, rows = vision.hidden_size, images * before
    head_dim = hidden // vision.num_attention_heads
    places = _INDEX_BYTES * images * vision.tokens // make.width
    return [
        make.elementwise("mean_keys", Elementwise.COPY, rows * hidden, rows * head_dim),
        *match_ops(make, images, before, head_dim),
        make.elementwise("average", Elementwise.AVERAGE, rows * hidden, images * after * hidden),
        make.elementwise("places", Elementwise.COPY, places, places),
    ]


def projector_ops(vision_hidden: Count, text_hidden: Count, rows: Count, width: int) -> list[Op]:
    """Ops of the two-layer projector: vision hidden -> text hidden -> text hidden."""
    make = Kernels("vision.projector", width)
    return [
        make.linear("linear_1", rows, vision_hidden, text_hidden, bias=True),
        make.elementwise("gelu", Elementwise.GELU, rows * text_hidden, rows * text_hidden),
        make.linear("linear_2", rows, text_hidden, text_hidden, bias=True),
    ]


def pooling_ops(
    frames: Count, patches: Count, frame_tokens: Count, hidden: Count, width: int
) -> list[Op]:
    """Ops of the pooling of each frame, ``patches`` -> ``frame_tokens`` (bilinear in OneVision)."""
    make = Kernels("vision.pooling", width)
    return [
        make.elementwise(
            "bilinear",
            Elementwise.BILINEAR,
            frames * patches * hidden,
            frames * frame_tokens * hidden,
        )
    ]
