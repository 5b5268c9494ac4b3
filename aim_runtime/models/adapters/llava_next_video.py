"""LLaVA-NeXT-Video: frames pooled two by two, without newlines; anyres images."""

from typing import ClassVar

from torch import Tensor
from transformers import LlavaNextVideoForConditionalGeneration

from aim_runtime.models.adapter import Adapter, Items
from aim_runtime.models.images import image_items
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.small_parts import LLAVA, VIDEO
from aim_runtime.models.visual import equal_groups


class LlavaNextVideoAdapter(Adapter):
    """Each frame is a group, 144 tokens at 336 x 336 pixels."""

    kinds: ClassVar = (LlavaNextVideoForConditionalGeneration,)
    pixel_inputs: ClassVar = {
        "image": ("pixel_values", "image_sizes"),
        "video": ("pixel_values_videos",),
    }
    smallest: ClassVar = {
        "llava_next_video": LLAVA
        | {
            "video_token_index": VIDEO,
            "image_grid_pinpoints": [[16, 32], [32, 16]],
            "spatial_pool_stride": 2,
        }
    }

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        pixels = inputs.get(self.pixel_inputs[modality][0])
        if pixels is None:
            return None
        self.require_as_configured(inputs, "vision_feature_select_strategy")
        if modality == "video":
            videos, frames = map(int, pixels.shape[:2])
            vision = self.config.vision_config
            side = vision.image_size // vision.patch_size // self.config.spatial_pool_stride
            return (equal_groups(frames, side**2),) * videos
        return image_items(self.geometry, inputs)

    def pooled(self, x: Tensor, modality: str) -> Tensor:
        x = super().pooled(x, modality)
        return self.inner.vision_resampler(x) if modality == "video" else x

    def check(self) -> None:
        """The tower's tokens must fill a grid."""
        super().check()
        _ = self.geometry
