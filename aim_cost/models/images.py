"""The geometry of an image of any size: crops, packed grid, newlines, and groups that merge.

Followed, and equal to: transformers 5.17 to 5.24, ``pack_image_features`` of LLaVA-OneVision,
LLaVA-NeXT and LLaVA-NeXT-Video, ``smart_resize`` of Qwen2-VL.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from aim_cost.checks import sequence, whole
from aim_cost.errors import SpecError
from aim_cost.models.image_rule import Anyres, PixelLimits
from aim_cost.models.model import ModelSpec
from aim_cost.models.vision_spec import FrameSize

_SHRINKS_ABOVE = 1.1  # transformers' constant: how much longer a side may be than the limit's
_MOST_CROPS = 1000
_MOST_OBLONG = 200  # long side over short side that Qwen's processor accepts


@dataclass(frozen=True)
class ImageGrid:
    """One image as a prompt holds it: ``[base view | row, newline | row, newline | ...]``.

    The image is resized into a grid of ``tile_rows`` x ``tile_columns`` crops. Their features, laid
    side by side, lose the rows or columns that only pad, and are shrunk where they are too many. An
    image that is not cut has no tiles: its one view is the base.

    Args:
        size: height and width of the image, pixels.
        crop_size: height and width of each crop as the vision tower gets it, pixels.
        base_tokens: tokens of the base view; each crop gives as many.
        unpadded: rows and columns of the grid before it is shrunk.
        row_edges: where the rows of tile row a begin and end in the packed grid,
            ``range(row_edges[a], row_edges[a + 1])``; tile_rows + 1 numbers, (0,) without tiles.
        column_edges: the same for columns.
        newline_tokens: one after each grid row; in LLaVA-OneVision's images without tiles one after
            the base.
    A row belongs to the crop in which its centre lies, a column too.
    """

    size: FrameSize
    crop_size: FrameSize
    base_tokens: int
    unpadded: tuple[int, int] = (0, 0)
    row_edges: tuple[int, ...] = (0,)
    column_edges: tuple[int, ...] = (0,)
    newline_tokens: int = 0

    @property
    def tile_rows(self) -> int:
        return len(self.row_edges) - 1

    @property
    def tile_columns(self) -> int:
        return len(self.column_edges) - 1

    @property
    def crops(self) -> int:
        """Crops that the vision tower encodes, the base view among them."""
        return 1 + self.tile_rows * self.tile_columns

    @property
    def rows(self) -> int:
        """Rows of the packed grid."""
        return self.row_edges[-1]

    @property
    def columns(self) -> int:
        """Columns of the packed grid, newlines not counted."""
        return self.column_edges[-1]

    @property
    def shrinks(self) -> bool:
        """Whether the grid is resampled to fewer rows and columns."""
        return self.unpadded != (self.rows, self.columns)

    @property
    def tokens(self) -> int:
        """All visual tokens, newlines included: the placeholders of this image."""
        return self.base_tokens + self.rows * self.columns + self.newline_tokens

    @property
    def groups(self) -> tuple[tuple[range, ...], ...]:
        """The places that merge with one another: indices into the ``tokens`` of this image.

        First the base view, one range; then each tile that has any, row by row of tiles: a range
        for each of its grid rows. Every place but the newlines is in exactly one group.
        """
        return (
            (range(self.base_tokens),),
            *(
                tuple(
                    range(self._row_start(row) + left, self._row_start(row) + right)
                    for row in range(top, bottom)
                )
                for top, bottom, left, right in self._tiles()
            ),
        )

    @property
    def group_tokens(self) -> tuple[int, ...]:
        """Tokens of each of ``groups``."""
        tiles = ((bottom - top) * (right - left) for top, bottom, left, right in self._tiles())
        return (self.base_tokens, *tiles)

    @property
    def newlines(self) -> tuple[int, ...]:
        """The places of the newlines, which never merge: indices into the ``tokens``."""
        if self.newline_tokens and not self.tile_rows:
            return (self.base_tokens,)
        return tuple(self._row_start(row) + self.columns for row in range(self.rows))

    def _row_start(self, row: int) -> int:
        return self.base_tokens + row * (self.columns + 1)

    def _tiles(self) -> list[tuple[int, int, int, int]]:
        """First row, end of rows, first column, end of columns of each tile that holds tokens."""
        rows = zip(self.row_edges, self.row_edges[1:], strict=False)
        columns = list(zip(self.column_edges, self.column_edges[1:], strict=False))
        return [
            (top, bottom, left, right)
            for top, bottom in rows
            for left, right in columns
            if top < bottom and left < right
        ]


def image_grid(model: ModelSpec, size: FrameSize, *, alone: bool = True) -> ImageGrid:
    """How ``model`` takes an image of ``size``, height and width in pixels.

    Args: alone, whether it is its prompt's only image: LLaVA-OneVision cuts no others.
    Raises: SpecError for sizes that the model cannot take.
    """
    size = checked_size(size)
    rule, vision = model.image_rule, model.vision
    if vision.any_size:
        limits = rule if isinstance(rule, PixelLimits) else PixelLimits()
        view = vision.at(_resized(size, vision.unit, limits))
        return ImageGrid(size, view.frame_size, view.output_tokens)
    if not isinstance(rule, Anyres):
        return ImageGrid(size, vision.frame_size, model.image_tokens)
    if rule.alone and not alone:
        return ImageGrid(size, vision.frame_size, model.image_tokens, newline_tokens=1)
    side, crop = vision.grid[0], vision.frame_size[0]
    if model.image_tokens != side**2:
        raise SpecError(
            "vision_feature_select_strategy",
            expected=f"{side} x {side} tokens a crop, to lay crops side by side",
            got=model.image_tokens,
            fix="Drop the class token ('default').",
        )
    height, width = _best_grid(size, rule, crop)
    full = (height // crop * side, width // crop * side)
    unpadded = _unpadded(size, full)
    rows, columns = _shrunk(unpadded, rule, side)
    return ImageGrid(
        size,
        vision.frame_size,
        model.image_tokens,
        unpadded,
        _edges(full[0], side, unpadded[0], rows),
        _edges(full[1], side, unpadded[1], columns),
        newline_tokens=rows,
    )


def image_grids(model: ModelSpec, sizes: Sequence[FrameSize]) -> tuple[ImageGrid, ...]:
    """``image_grid`` of all the images of one prompt. Raises: SpecError."""
    return tuple(image_grid(model, size, alone=len(sizes) == 1) for size in sizes)


def group_sizes(grids: Sequence[ImageGrid]) -> tuple[tuple[int, int], ...]:
    """Groups of the images of a prompt by size: (groups, tokens of each), the largest first."""
    found = Counter(tokens for grid in grids for tokens in grid.group_tokens)
    return tuple((found[tokens], tokens) for tokens in sorted(found, reverse=True))


def checked_size(size: object) -> FrameSize:
    """Height and width of an image, pixels. Raises: SpecError."""
    sides = sequence(size, "image", SpecError)
    if len(sides) != 2:
        raise SpecError("image", expected="height and width", got=sides, fix="E.g. (1080, 1920).")
    for side in sides:
        whole(side, "image", SpecError, fix="Give height and width in pixels.")
    return sides[0], sides[1]


def _best_grid(size: FrameSize, rule: Anyres, crop: int) -> FrameSize:
    """The pinpoint that keeps the most pixels of an image; of those the smallest."""
    height, width = size

    def kept(grid: FrameSize) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        pixels = min(int(width * scale) * int(height * scale), width * height)
        return pixels, -grid[0] * grid[1]

    fits = (h % crop == w % crop == 0 and h * w <= _MOST_CROPS * crop**2 for h, w in rule.pinpoints)
    if not rule.pinpoints or not all(fits):
        raise SpecError(
            "image_grid_pinpoints",
            expected=f"multiples of image_size = {crop} as sides, at most {_MOST_CROPS} crops",
            got=rule.pinpoints[:3],
            fix="Give them in the config.",
        )
    return max(rule.pinpoints, key=kept)


def _unpadded(size: FrameSize, full: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a grid that hold the image; as much padding goes on both sides."""
    (height, width), (rows, columns) = size, full
    if width / height > columns / rows:
        image = int(round(height * (columns / width), 7))
        return rows - (rows - image) // 2 * 2, columns
    image = int(round(width * (rows / height), 7))
    return rows, columns - (columns - image) // 2 * 2


def _shrunk(unpadded: tuple[int, int], rule: Anyres, side: int) -> tuple[int, int]:
    rows, columns = unpadded
    if rule.max_crops is None:
        return unpadded
    ratio = math.sqrt(rows * columns / (rule.max_crops * side**2))
    if ratio <= _SHRINKS_ABOVE:
        return unpadded
    return int(rows // ratio), int(columns // ratio)


def _edges(full: int, side: int, unpadded: int, packed: int) -> tuple[int, ...]:
    """Where tiles of ``side`` begin and end, once a grid's side is unpadded and shrunk.

    Place i of the packed side has its centre at (i + 1/2) unpadded / packed.
    """
    padding = (full - unpadded) // 2
    inside = (min(max(edge - padding, 0), unpadded) for edge in range(0, full + 1, side))
    # the first place whose centre does not lie before the edge
    return tuple(-((unpadded - 2 * edge * packed) // max(2 * unpadded, 1)) for edge in inside)


def _resized(size: FrameSize, unit: int, limits: PixelLimits) -> FrameSize:
    """Both sides to multiples of ``unit``, then to no more and no fewer pixels than the limits."""
    long, short = max(size), min(size)
    if long / short > _MOST_OBLONG:
        raise SpecError(
            "image",
            expected=f"a long side at most {_MOST_OBLONG} times the short one",
            got=f"{size[0]}x{size[1]}",
            fix="Cut the image.",
        )
    height, width = (round(side / unit) * unit for side in size)
    if height * width > limits.most:
        scale = math.sqrt(size[0] * size[1] / limits.most)
        height, width = (max(unit, math.floor(side / scale / unit) * unit) for side in size)
    elif height * width < limits.least:
        scale = math.sqrt(limits.least / (size[0] * size[1]))
        height, width = (math.ceil(side * scale / unit) * unit for side in size)
    return height, width
