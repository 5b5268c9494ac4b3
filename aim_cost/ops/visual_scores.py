"""Scores of visual tokens before the LLM: names, and the ops that each adds to the graph.

FLOPs are those of the products that each method's released code computes; sorting, clustering
loops and elementwise work count zero, as everywhere. Sources: the papers and repositories named.
"""

from dataclasses import dataclass
from typing import Any

from aim_cost.ops import formulas
from aim_cost.ops.count import Count
from aim_cost.ops.kind import BatchedProduct, Elementwise, Kind
from aim_cost.ops.op import Op
from aim_cost.ops.scores import Score, by_name


@dataclass(frozen=True)
class VisualScore(Score):
    """A way to rank visual tokens before the LLM; ``ops`` takes a VisualSize.

    Args: across_sizes, whether its cost depends on all tokens together, not on frames.
    """

    across_sizes: bool = False


@dataclass(frozen=True)
class VisualSize:
    """Where a score is computed before the LLM.

    Args:
        groups: frames or crops of all prompts, ``patches`` each in the vision tower.
        tokens: visual tokens of one prompt that are ranked; kept: those that stay.
    """

    batch: Count
    groups: Count
    patches: Count
    tokens: Count
    kept: Count
    vision: Any
    hidden: Count
    width: int


def _visual_op(
    name: str, size: VisualSize, flops: Count, reads: Count, writes: Count, kind: Kind
) -> list[Op]:
    return [Op(name, "merge", flops, size.width * reads, size.width * writes, kind)]


def _vision_attention(size: VisualSize) -> list[Op]:
    """The matrix of one vision layer, written beside its flash attention."""
    heads, hidden = size.vision.num_attention_heads, size.vision.hidden_size
    sizes = (size.groups, heads, size.patches, size.patches, hidden // heads)
    flops = formulas.attention_scores_flops(*sizes)
    scores = size.groups * heads * size.patches * size.patches
    kind = BatchedProduct(size.groups * heads, size.patches, size.patches, hidden // heads)
    return _visual_op(
        "vision_scores", size, flops, 2 * size.groups * size.patches * hidden, scores, kind
    )


def _pairs(size: VisualSize) -> list[Op]:
    # x[B, N, H] @ x[B, N, H]^T -> [B, N, N]
    rows, tokens = size.batch * size.tokens, size.tokens
    kind = BatchedProduct(size.batch, tokens, tokens, size.hidden)
    flops = 2 * rows * tokens * size.hidden
    return _visual_op("pairs", size, flops, 2 * rows * size.hidden, rows * tokens, kind)


def _vision_attention_and_pairs(size: VisualSize) -> list[Op]:
    return [*_vision_attention(size), *_pairs(size)]


def _determinantal(size: VisualSize) -> list[Op]:
    """The kernel of all pairs, then ``kept`` steps that each touch all rows chosen so far."""
    steps = size.batch * size.kept * size.kept * size.tokens
    return [
        *_pairs(size),
        *_visual_op("steps", size, steps, steps, size.batch * size.tokens, Elementwise.COPY),
    ]


def _adjacent(size: VisualSize) -> list[Op]:
    rows = size.batch * size.tokens
    flops = 2 * rows * size.hidden
    return _visual_op("adjacent", size, flops, 2 * rows * size.hidden, rows, Elementwise.COPY)


def _centres(size: VisualSize) -> list[Op]:
    rows = size.batch * size.tokens
    flops = 4 * rows * size.hidden
    return _visual_op("centres", size, flops, 2 * rows * size.hidden, rows, Elementwise.COPY)


def _pairs_in_frames(size: VisualSize) -> list[Op]:
    tokens = size.batch * size.tokens // size.groups
    rows = size.batch * size.tokens
    kind = BatchedProduct(size.groups, tokens, tokens, size.hidden)
    flops = 2 * rows * tokens * size.hidden
    return _visual_op("frame_pairs", size, flops, 2 * rows * size.hidden, rows * tokens, kind)


def _attention_and_frames(size: VisualSize) -> list[Op]:
    return [*_vision_attention(size), *_pairs_in_frames(size)]


def _nothing(size: VisualSize) -> list[Op]:
    del size
    return []


VISUAL_SCORES = by_name(
    VisualScore(
        "vision-attention",
        "attention of the vision tower",
        "FasterVLM, VisionZip",
        _vision_attention,
    ),
    VisualScore(
        "vision-attention-pairs",
        "attention of the vision tower and similarity of keys",
        "PruMerge",
        _vision_attention_and_pairs,
    ),
    VisualScore(
        "vision-attention-density",
        "attention of the vision tower and density in each frame",
        "FastVID, HoliTom, FlashVID",
        _attention_and_frames,
    ),
    VisualScore(
        "pairwise-cosine",
        "greedy max-min over all cosines",
        "DivPrune",
        _pairs,
        across_sizes=True,
    ),
    VisualScore(
        "determinantal",
        "determinantal point process, step by step",
        "CDPruner",
        _determinantal,
        across_sizes=True,
    ),
    VisualScore(
        "adjacent-cosine",
        "cosine to the same place of the frame before",
        "DyCoke, EVS",
        _adjacent,
    ),
    VisualScore(
        "frame-centres",
        "distance to the centres of frame and video",
        "VidCom2",
        _centres,
    ),
    VisualScore(
        "frame-density",
        "density clustering in each frame",
        "PruneVid",
        _pairs_in_frames,
    ),
    VisualScore(
        "random",
        "drawn at random",
        "baseline",
        _nothing,
        across_sizes=True,
    ),
    VisualScore(
        "uniform",
        "every k-th token",
        "baseline",
        _nothing,
        across_sizes=True,
    ),
)
"""Scores before the LLM, by the name that a schedule's ``select.by`` gives."""
