"""Anyres images as items: the base view and each tile of the grid are groups, newlines stay."""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from aim_cost.models.images import image_grid
from aim_cost.models.model import ModelSpec
from aim_runtime.errors import PatchError
from aim_runtime.models.visual import Block, VisualItem


def image_items(
    model: ModelSpec, inputs: dict[str, Any], alone: Sequence[bool] | None = None
) -> tuple[VisualItem, ...]:
    """The images of ``inputs``, made from their heights and widths in pixels.

    Args: alone, for each image whether it is the only one of its prompt; by default all are.
    Raises: PatchError without image_sizes, SpecError for sizes that the model cannot take.
    """
    given = inputs.get("image_sizes")
    if given is None:
        raise PatchError(
            "image_sizes",
            expected="height and width of each image",
            got="none",
            fix="Pass all that the processor returned.",
        )
    sizes = [tuple(map(int, size)) for size in given]
    pixels = inputs["pixel_values"]
    images = len(pixels) if pixels.dim() == 5 else len(sizes)  # else the crops of all in a row
    alone = [True] * images if alone is None else alone
    for name, number in (("image_sizes", len(sizes)), ("batch_num_images", len(alone))):
        if number != images:
            raise PatchError(
                name,
                expected=f"those of each of the {images} images in pixel_values",
                got=f"those of {number}",
                fix="Pass all that the processor returned.",
            )
    return tuple(_item(model, size, one) for size, one in zip(sizes, alone, strict=True))


@lru_cache
def _item(model: ModelSpec, size: tuple[int, int], alone: bool) -> VisualItem:
    grid = image_grid(model, size, alone=alone)
    places: dict[int, list[int]] = defaultdict(list)
    for ranges, tokens in zip(grid.groups, grid.group_tokens, strict=True):
        places[tokens] += [place for row in ranges for place in row]
    largest_first = sorted(places.items(), reverse=True)
    blocks = (Block(len(where) // n, n, tuple(where)) for n, where in largest_first)
    return VisualItem(grid.tokens, tuple(blocks), in_order=grid.tile_rows > 0)
