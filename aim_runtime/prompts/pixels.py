"""Random pixels of a workload, in the form in which the processor of each family returns them."""

import math

import torch
from torch import Generator, Tensor

from aim_cost.models.image_rule import Anyres
from aim_cost.models.model import ModelSpec
from aim_cost.models.vision_spec import FrameSize
from aim_cost.models.workload import Workload
from aim_runtime.errors import InputError
from aim_runtime.models.inputs import Inputs


def random_pixels(spec: ModelSpec, workload: Workload, generator: Generator) -> Inputs:
    """The pixels of all prompts of ``workload``, and what describes them.

    Returns: on the CPU, float32; the pixels are never zeros.
    Raises: InputError where a model takes no such images.
    """
    if spec.vision.any_size:
        return _patches(spec, workload, generator)
    side, channels = spec.square_side, spec.vision.num_channels
    if workload.frames is not None:
        clips = (workload.batch, workload.frames, channels, side, side)
        return {"pixel_values_videos": _normal(clips, generator)}
    if isinstance(spec.image_rule, Anyres):
        return _crops(spec, workload, generator)
    images = workload.visual_input(spec)
    if images.group_tokens != spec.image_tokens:
        raise InputError(
            "image_tokens",
            expected=f"a multiple of {spec.image_tokens}, the tokens of an image",
            got=workload.image_tokens,
            fix="Give whole images.",
        )
    shape = (workload.batch * images.groups, channels, side, side)
    return {"pixel_values": _normal(shape, generator)}


def _crops(spec: ModelSpec, workload: Workload, generator: Generator) -> Inputs:
    """Images of any size, cut into crops; those of fewer crops are padded."""
    if workload.images is None:
        raise InputError(
            "workload",
            expected=f"the size of each image, by which {spec.name} cuts it",
            got=f"image_tokens {workload.image_tokens}",
            fix="Give height and width (--image HEIGHTxWIDTH).",
        )
    grids = workload.image_grids(spec) * workload.batch
    height, width = spec.vision.frame_size
    shape = (max(grid.crops for grid in grids), spec.vision.num_channels, height, width)
    found = {
        "pixel_values": _normal((len(grids), *shape), generator),
        "image_sizes": torch.tensor([grid.size for grid in grids], device="cpu"),
    }
    if isinstance(spec.image_rule, Anyres) and spec.image_rule.alone:
        found["batch_num_images"] = torch.tensor(
            [len(workload.images)] * workload.batch, device="cpu"
        )
    return found


def _patches(spec: ModelSpec, workload: Workload, generator: Generator) -> Inputs:
    """Rows of patches, and the grid of each image or video: times, rows, columns."""
    vision = spec.vision

    def grid(size: FrameSize, times: int) -> list[int]:
        return [times, *(side // vision.patch_size for side in size)]

    kind, suffix = "image", ""
    if workload.images is not None:
        grids = [grid(one.crop_size, 1) for one in workload.image_grids(spec)]
    else:
        groups = workload.visual_input(spec).groups
        size = workload.sized(spec).vision.frame_size
        grids = [grid(size, 1)] * groups
        if workload.frames is not None:
            kind, suffix, grids = "video", "_videos", [grid(size, groups)]
    grids *= workload.batch
    rows = sum(map(math.prod, grids))
    return {
        f"pixel_values{suffix}": _normal((rows, vision.patch_elements), generator),
        f"{kind}_grid_thw": torch.tensor(grids, device="cpu"),
    }


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device="cpu")
