"""Ops from the pixels of images of any size to their visual tokens."""

from collections.abc import Sequence

from aim_cost.models import qwen_vision, vision
from aim_cost.models.image_rule import Anyres
from aim_cost.models.images import ImageGrid
from aim_cost.models.model import ModelSpec
from aim_cost.models.vision_spec import QwenVisionSpec
from aim_cost.models.workload import Workload
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise
from aim_cost.ops.op import Op


def image_ops(
    model: ModelSpec,
    workload: Workload,
    width: int,
    *,
    tokens: Sequence[int] = (),
    attention: str = "proportional",
) -> list[Op]:
    """All ops from the pixels of ``workload.images`` to what enters the LLM.

    All crops of all prompts go through the tower at once, then each image is packed on its own.
    ``tokens`` and ``attention``: of a tower that merges, see ``vision.tower_ops``.
    """
    batch, views = workload.batch, workload.views(model)
    if isinstance(model.vision, QwenVisionSpec):
        sized = [(view, batch * n) for view, n in views if isinstance(view, QwenVisionSpec)]
        return qwen_vision.tower_ops(sized, width)
    crops = batch * sum(number for _, number in views)
    ops = vision.feature_ops(model, crops, width, video=False, tokens=tokens, attention=attention)
    if not isinstance(model.image_rule, Anyres):
        return ops
    grids = workload.image_grids(model) * batch
    for grid in grids:
        ops += _packing_ops(grid, model.text.hidden_size, width)
    size = sum(grid.tokens for grid in grids) * model.text.hidden_size
    return [
        *ops,
        Kernels("vision.pooling", width).elementwise("join_images", Elementwise.COPY, size, size),
    ]


def _packing_ops(grid: ImageGrid, hidden: int, width: int) -> list[Op]:
    """Crops side by side, unpadded (a view), shrunk where they are many, newlines, the base."""
    make = Kernels("vision.pooling", width)
    after = grid.tokens * hidden
    if not grid.tile_rows:
        return [make.elementwise("append_newline", Elementwise.COPY, after, after)]
    laid = (grid.crops - 1) * grid.base_tokens * hidden
    packed = (grid.tokens - grid.base_tokens) * hidden
    ops = [make.elementwise("lay_crops", Elementwise.COPY, laid, laid)]
    if grid.shrinks:
        rows, columns = grid.unpadded
        shrunk = grid.rows * grid.columns * hidden
        ops.append(
            make.elementwise("bilinear", Elementwise.BILINEAR, rows * columns * hidden, shrunk)
        )
    return [
        *ops,
        make.elementwise("append_newlines", Elementwise.COPY, packed, packed),
        make.elementwise("join_base", Elementwise.COPY, after, after),
    ]
