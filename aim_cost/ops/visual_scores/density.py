"""Scores that look for dense tokens in segments of a video, and merge others into them."""

from typing import TypeVar

from aim_cost.ops.kind import BatchedProduct, Elementwise, Steps
from aim_cost.ops.op import Op
from aim_cost.ops.visual_scores.attention import tower_attention
from aim_cost.ops.visual_scores.frames import pairs_in_frames
from aim_cost.ops.visual_scores.score import VisualScore, VisualSize, loop_op, unit_op, visual_op

_Number = TypeVar("_Number")


def anchor_tokens(kept: _Number) -> _Number:
    """Anchors of the tokens that FastVID keeps of a frame, 40 %; the others are salient.

    A number or a tensor of them.
    """
    return 2 * kept // 5  # type: ignore[operator, return-value]


def diverse_tokens(kept: _Number) -> _Number:
    """Diverse ones of the tokens that FlashVID keeps of a frame, 70 % rounded up; likewise."""
    return -(-7 * kept // 10)  # type: ignore[operator, return-value]


def _frames(size: VisualSize) -> int:
    """Frames of an item."""
    frames: int = size.views // size.items
    return frames


def _most_of_a_frame(size: VisualSize) -> int:
    most: int = -(-size.kept // size.frames)
    return most


def _clusters(size: VisualSize) -> list[Op]:
    """Distances in each frame, densities and ranks, then the sums of clusters."""
    each = size.tokens // size.frames
    matrix, elements = size.rows * each, size.rows * size.hidden
    # b[views, n, n] @ x[views, n, H] -> [views, n, H]
    sums = BatchedProduct(size.views, each, size.hidden, each)
    return [
        *pairs_in_frames(size),
        visual_op("densities", size, 0, 4 * matrix, 2 * matrix, Elementwise.REDUCTION),
        visual_op("ranks", size, 0, 2 * matrix, size.rows, Elementwise.REDUCTION),
        visual_op("nearest", size, 0, matrix, size.rows, Elementwise.BEST),
        visual_op("join", size, 2 * matrix * size.hidden, matrix + elements, elements, sums),
    ]


def _over_segments(name: str, size: VisualSize) -> Op:
    """A sum over the frames of each segment, of all tokens."""
    frames, width = _frames(size), size.tokens // size.frames * size.hidden
    # s[items, F, F] @ x[items, F, n H] -> [items, F, n H]
    kind = BatchedProduct(size.items, frames, width, frames)
    elements = size.rows * size.hidden
    return visual_op(name, size, 2 * elements * frames, elements, elements, kind)


def _between_frames(name: str, size: VisualSize) -> Op:
    """Products of all frames' means, or sums of these: F x F x H."""
    frames = _frames(size)
    kind = BatchedProduct(size.items, frames, frames, size.hidden)
    reads = size.views * size.hidden
    return visual_op(name, size, 2 * reads * frames, 2 * reads, size.views * frames, kind)


def _frame_means(size: VisualSize) -> Op:
    elements = size.rows * size.hidden
    return visual_op("means", size, 0, elements, size.views * size.hidden, Elementwise.AVERAGE)


def _anchors(size: VisualSize) -> list[Op]:
    """FastVID: cosines of each frame's anchors to all tokens, then the sums of what they join."""
    each, number = size.tokens // size.frames, anchor_tokens(_most_of_a_frame(size))
    if not number:
        return tower_attention(size)
    frames = _frames(size)
    anchors, tokens = frames * number, frames * each
    matrix, elements = size.items * anchors * tokens, size.rows * size.hidden
    # a[items, F anchors, H] @ x[items, F n, H]^T -> [items, F anchors, F n], and back
    cosines = BatchedProduct(size.items, anchors, tokens, size.hidden)
    sums = BatchedProduct(size.items, anchors, size.hidden, tokens)
    flops, merged = 2 * matrix * size.hidden, size.items * anchors * size.hidden
    pairs = size.rows * each
    return [
        *tower_attention(size),
        *pairs_in_frames(size),
        visual_op("densities", size, 0, 4 * pairs, 2 * pairs, Elementwise.REDUCTION),
        _frame_means(size),
        unit_op(size),
        visual_op("anchors", size, flops, elements + merged, matrix, cosines),
        visual_op("nearest", size, 0, 2 * matrix, matrix, Elementwise.BEST),
        visual_op("join", size, flops, matrix + elements, merged, sums),
    ]


def _windows(size: VisualSize) -> list[Op]:
    """PruneVid: clusters of frames, likeness and mean of cells in each segment, clusters."""
    return [
        _frame_means(size),
        _between_frames("frame_pairs_of_means", size),
        unit_op(size),
        _over_segments("likeness", size),
        _over_segments("segment_means", size),
        *_clusters(size),
    ]


def _best_windows(size: VisualSize) -> list[Op]:
    """HoliTom: the segments that save the most, frame by frame; the mean of cells, clusters."""
    frames, elements = _frames(size), size.rows * size.hidden
    counted = size.rows * frames
    return [
        *tower_attention(size),
        visual_op("adjacent", size, 0, 2 * elements, size.rows, Elementwise.REDUCTION),
        loop_op("windows", Steps(frames, _WINDOW_KERNELS), counted, size.views * frames),
        _over_segments("segment_means", size),
        *_clusters(size),
    ]


def _trees(size: VisualSize) -> list[Op]:
    """FlashVID: diverse tokens one by one, links to the frame before, trees, clusters."""
    each, frames = size.tokens // size.frames, _frames(size)
    number, elements = diverse_tokens(_most_of_a_frame(size)), size.rows * size.hidden
    ops = [
        *tower_attention(size),
        _frame_means(size),
        _between_frames("segment_means", size),
        unit_op(size),
        *pairs_in_frames(size),
        loop_op(
            "diverse", Steps(number, _DIVERSE_KERNELS), 4 * number * size.rows, number * size.rows
        ),
    ]
    if frames > 1:
        links = size.items * (frames - 1)
        matrix = links * each * each
        # x[items (F - 1), n, H] @ x[items (F - 1), n, H]^T -> [items (F - 1), n, n], and back
        kind = BatchedProduct(links, each, each, size.hidden)
        flops = 2 * matrix * size.hidden
        joins = Steps(frames - 1, _TREE_KERNELS)
        ops += [
            visual_op("links", size, flops, 2 * elements, matrix, kind),
            loop_op("trees", joins, matrix + 2 * elements, 2 * elements, flops),
        ]
    return [*ops, *_clusters(size)]


_WINDOW_KERNELS, _DIVERSE_KERNELS, _TREE_KERNELS = 16, 9, 9
"""Kernels of a step: of HoliTom's segments to and fro, FlashVID's choice, FlashVID's trees."""

SCORES = (
    VisualScore(
        "vision-attention-dense",
        "attention of the vision tower, and density in each frame",
        "FastVID",
        _anchors,
        reads_tower=True,
    ),
    VisualScore(
        "frame-density",
        "density clustering in each frame, still cells averaged",
        "PruneVid",
        _windows,
    ),
    VisualScore(
        "vision-attention-still",
        "attention of the vision tower, still cells of best segments joined",
        "HoliTom",
        _best_windows,
        reads_tower=True,
    ),
    VisualScore(
        "vision-attention-trees",
        "attention of the vision tower and diversity, trees over time",
        "FlashVID",
        _trees,
        reads_tower=True,
    ),
)
