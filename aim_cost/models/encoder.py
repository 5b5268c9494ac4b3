"""Ops from pixels to visual tokens: of frames, and of images of any size."""

from collections.abc import Sequence

from aim_cost.models import vision
from aim_cost.models.image_rule import Anyres
from aim_cost.models.images import ImageGrid
from aim_cost.models.model import ModelSpec
from aim_cost.models.vision_spec import Tower
from aim_cost.models.workload import Workload
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise
from aim_cost.ops.op import Op


def feature_ops(
    model: ModelSpec,
    views: Sequence[tuple[Tower, Count]],
    width: int,
    *,
    video: bool,
    tokens: Sequence[int] = (),
    attention: str = "proportional",
) -> list[Op]:
    """All ops from pixels to the visual tokens of ``views``, see ``Tower``.

    Frames of a ``video`` are pooled where the model has a pooling, before or after the projector.
    ``tokens`` and ``attention``: of a tower that merges, see ``vision.tower_ops``. A number of
    views may be a symbol.
    """
    tower, hidden = model.vision, model.text.hidden_size
    bias = model.projector_bias
    ops = tower.ops(views, width, tokens, attention)
    if tower.output_size is not None:
        return ops
    groups = sum(number for _, number in views)
    before, pooling = model.image_tokens, model.pooling if video else None
    if pooling is None:
        return ops + vision.projector_ops(tower.hidden_size, hidden, groups * before, width, bias)
    after = model.frame_tokens
    if pooling.before_projector:
        ops += vision.pooling_ops(groups, before, after, tower.hidden_size, width)
        return ops + vision.projector_ops(tower.hidden_size, hidden, groups * after, width, bias)
    ops += vision.projector_ops(tower.hidden_size, hidden, groups * before, width, bias)
    return ops + vision.pooling_ops(groups, before, after, hidden, width)


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
    batch = workload.batch
    views = [(view, batch * number) for view, number in workload.views(model)]
    ops = feature_ops(model, views, width, video=False, tokens=tokens, attention=attention)
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
