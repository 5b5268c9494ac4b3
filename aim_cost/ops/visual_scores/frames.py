"""Scores that compare the frames of a video, or the tokens of a frame."""

from aim_cost.ops.kind import BatchedProduct, Elementwise
from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize, visual_op


def _adjacent(size: VisualSize) -> list[Op]:
    elements = size.rows * size.hidden
    return [visual_op("adjacent", size, 2 * elements, 2 * elements, size.rows, Elementwise.COPY)]


def _centres(size: VisualSize) -> list[Op]:
    elements = size.rows * size.hidden
    return [visual_op("centres", size, 4 * elements, 2 * elements, size.rows, Elementwise.COPY)]


def pairs_in_frames(size: VisualSize) -> list[Op]:
    """Products of all pairs of tokens of a frame."""
    each = size.tokens // size.frames
    # x[views, n, H] @ x[views, n, H]^T -> [views, n, n]
    kind = BatchedProduct(size.views, each, each, size.hidden)
    flops, reads = 2 * size.rows * each * size.hidden, 2 * size.rows * size.hidden
    return [visual_op("frame_pairs", size, flops, reads, size.rows * each, kind)]


_NO_CODE = "it has no code here yet"

SCORES = (
    VisualScore(
        "adjacent-cosine",
        "cosine to the same place of the frame before",
        "DyCoke, EVS",
        _adjacent,
        why_not_run=_NO_CODE,
    ),
    VisualScore(
        "frame-centres",
        "distance to the centres of frame and video",
        "VidCom2",
        _centres,
        why_not_run=_NO_CODE,
    ),
)
