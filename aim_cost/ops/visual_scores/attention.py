"""Scores that read the attention of the vision tower."""

from aim_cost.ops import formulas
from aim_cost.ops.kind import BatchedProduct
from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize, visual_op
from aim_cost.ops.visual_scores.similarity import pairs


def tower_attention(size: VisualSize) -> list[Op]:
    """The row of the class token in one layer of the tower; all rows of a tower without one."""
    heads, keys = size.vision.num_attention_heads, size.vision.tokens
    rows, head_dim = size.vision.class_tokens or keys, size.vision.hidden_size // heads
    # q[views, heads, rows, d] @ k[views, heads, keys, d]^T -> [views, heads, rows, keys]
    flops = formulas.attention_scores_flops(size.views, heads, rows, keys, head_dim)
    reads = size.views * (rows + keys) * size.vision.hidden_size
    kind = BatchedProduct(size.views * heads, rows, keys, head_dim)
    return [visual_op("vision_scores", size, flops, reads, size.views * heads * rows * keys, kind)]


def _with_pairs(size: VisualSize) -> list[Op]:
    return [*tower_attention(size), *pairs(size)]


_NO_CODE = "it has no code here yet"

SCORES = (
    VisualScore(
        "vision-attention",
        "attention of the vision tower",
        "FasterVLM, VisionZip",
        tower_attention,
        reads_tower=True,
    ),
    VisualScore(
        "vision-attention-pairs",
        "attention of the vision tower and similarity of keys",
        "PruMerge",
        _with_pairs,
        reads_tower=True,
        why_not_run=_NO_CODE,
    ),
)
