"""Scores that compare the frames of a video, or the tokens of a frame."""

from aim_cost.ops.kind import BatchedProduct, Elementwise
from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize, unit_op, visual_op


def _adjacent(size: VisualSize) -> list[Op]:
    """Unit vectors, then the sum of products with those of another frame."""
    elements = size.rows * size.hidden
    return [
        unit_op(size),
        visual_op("adjacent", size, 0, 2 * elements, size.rows, Elementwise.REDUCTION),
    ]


def _centres(size: VisualSize) -> list[Op]:
    """Variance of all channels; of half of them unit vectors, centres and distances to both."""
    elements, half = size.rows * size.hidden, size.rows * (size.hidden // 2)
    return [
        visual_op("variance", size, 0, elements, size.sets * size.hidden, Elementwise.REDUCTION),
        visual_op("channels", size, 0, half, half, Elementwise.GATHER),
        visual_op("unit", size, 0, half, half, Elementwise.NORMALISE),
        visual_op("centres", size, 0, half, size.views * (size.hidden // 2), Elementwise.AVERAGE),
        visual_op("distances", size, 0, 2 * half, 2 * size.rows, Elementwise.REDUCTION),
    ]


def pairs_in_frames(size: VisualSize) -> list[Op]:
    """Products of all pairs of tokens of a frame."""
    each = size.tokens // size.frames
    # x[views, n, H] @ x[views, n, H]^T -> [views, n, n]
    kind = BatchedProduct(size.views, each, each, size.hidden)
    flops, reads = 2 * size.rows * each * size.hidden, 2 * size.rows * size.hidden
    return [visual_op("frame_pairs", size, flops, reads, size.rows * each, kind)]


SCORES = (
    VisualScore(
        "adjacent-cosine",
        "cosine to the same place of the frame before",
        "EVS",
        _adjacent,
        least_frames=2,
    ),
    VisualScore(
        "groups-of-four",
        "cosine to an earlier frame of the same four, the first of them whole",
        "DyCoke as stated",
        _adjacent,
        least_frames=2,
    ),
    VisualScore(
        "groups-of-four-loop",
        "the same, with the frames that its loop spares",
        "DyCoke as released",
        _adjacent,
        least_frames=2,
    ),
    VisualScore(
        "frame-centres",
        "distance to the centres of frame and video",
        "VidCom2",
        _centres,
    ),
)
