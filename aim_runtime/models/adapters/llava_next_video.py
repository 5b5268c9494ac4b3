"""LLaVA-NeXT-Video: frames pooled two by two, without newlines; images as in LLaVA-NeXT."""

from typing import ClassVar

from torch import Tensor
from transformers import LlavaNextVideoForConditionalGeneration

from aim_runtime.models.adapter import Items
from aim_runtime.models.adapters.llava_next import LlavaNextAdapter
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.small_parts import TILED_LLAVA, VIDEO
from aim_runtime.models.visual import equal_groups


class LlavaNextVideoAdapter(LlavaNextAdapter):
    """Each frame is a group, 144 tokens at 336 x 336 pixels."""

    kinds: ClassVar = (LlavaNextVideoForConditionalGeneration,)
    pixel_inputs: ClassVar = LlavaNextAdapter.pixel_inputs | {"video": ("pixel_values_videos",)}
    smallest: ClassVar = {
        "llava_next_video": TILED_LLAVA | {"video_token_index": VIDEO, "spatial_pool_stride": 2}
    }

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        if modality == "image":
            return super().items(inputs, modality)
        pixels = inputs.get("pixel_values_videos")
        if pixels is None:
            return None
        self.require_as_configured(inputs, "vision_feature_select_strategy")
        videos, frames = map(int, pixels.shape[:2])
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size // self.config.spatial_pool_stride
        return (equal_groups(frames, side**2),) * videos

    def pooled(self, x: Tensor, modality: str) -> Tensor:
        x = super().pooled(x, modality)
        return self.inner.vision_resampler(x) if modality == "video" else x
