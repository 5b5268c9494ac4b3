"""Qwen2-VL and Qwen2.5-VL: images and videos of any size, positions on three axes."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)

from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter, Items
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.small_parts import HIDDEN, IMAGE, PATCH, TEXT, VIDEO
from aim_runtime.models.visual import equal_groups

_SMALL_TOWER = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2}
_SMALL = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 252,
    "vision_end_token_id": 253,
    "text_config": TEXT
    | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        }
    },
    "tie_word_embeddings": False,
}


class Qwen2VLAdapter(Adapter):
    """Each temporal patch, two frames of a video, is a group; an image is one."""

    kinds: ClassVar[tuple[type[PreTrainedModel], ...]] = (
        Qwen2VLForConditionalGeneration,
        Qwen2_5_VLForConditionalGeneration,
    )
    has_axes: ClassVar = True
    pixel_inputs: ClassVar = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    }
    smallest: ClassVar = {
        "qwen2_vl": _SMALL
        | {
            "vision_config": _SMALL_TOWER | {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
        },
        "qwen2_5_vl": _SMALL
        | {
            "vision_config": _SMALL_TOWER
            | {
                "hidden_size": 32,
                "out_hidden_size": HIDDEN,
                "intermediate_size": 48,
                "window_size": 4 * PATCH,
                "fullatt_block_indexes": [1],
                "tokens_per_second": 2,
            }
        },
    }

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        pixels, grid = self.pixel_inputs[modality][:2]
        if inputs.get(pixels) is None:
            return None
        grids, rows = inputs.get(grid), len(inputs[pixels])
        patches = None if grids is None else int(grids.prod(dim=-1).sum())
        if grids is None or patches != rows:
            raise PatchError(
                grid,
                expected=f"temporal patches, rows and columns of each {modality}, whose products "
                f"add up to the {rows} rows of {pixels}",
                got="none" if grids is None else f"{patches} in {len(grids)} {modality}s",
                fix="Pass all that the processor returned.",
            )
        seconds = inputs.get("second_per_grid_ts") if modality == "video" else None
        if seconds is not None and len(seconds) != len(grids):
            raise PatchError(
                "second_per_grid_ts",
                expected=f"one of each of {len(grids)} videos",
                got=len(seconds),
                fix="Pass all that the processor returned.",
            )
        return tuple(equal_groups(t, h * w // self._square) for t, h, w in grids.tolist())

    def pooled(self, x: Tensor, modality: str) -> Tensor:
        """The mean of each square of patches, which follow one another in the tower."""
        del modality
        squares: Tensor = x.unflatten(1, (-1, self._square))
        return squares.mean(dim=2)

    @property
    def group_frames(self) -> int:
        frames: int = self.config.vision_config.temporal_patch_size
        return frames

    def with_groups(self, inputs: Inputs, kept: Sequence[Sequence[int]]) -> Inputs:
        """Rows of patches lie group after group, video after video."""
        name, grid = self.pixel_inputs["video"][:2]
        pixels, grids = inputs[name], inputs[grid].clone()
        rows, start = [], 0
        for (groups, height, width), numbers in zip(grids.tolist(), kept, strict=True):
            patches = height * width
            rows += [pixels[start + n * patches : start + (n + 1) * patches] for n in numbers]
            start += groups * patches
        grids[:, 0] = torch.tensor([len(numbers) for numbers in kept], device="cpu")
        return {**inputs, name: torch.cat(rows), grid: grids}

    @property
    def _square(self) -> int:
        """Patches that the tower joins to one token."""
        side: int = self.config.vision_config.spatial_merge_size
        return side**2
