"""LLaVA-OneVision: frames pooled two by two and a newline after each video; anyres images."""

from typing import ClassVar

from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from aim_runtime.models.adapter import Adapter, Items
from aim_runtime.models.images import image_items
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.small_parts import IMAGE, TEXT, TOWER, VIDEO
from aim_runtime.models.visual import equal_groups


class LlavaOnevisionAdapter(Adapter):
    """Each frame is a group, 196 tokens at 384 x 384 pixels; so is each crop of an image."""

    kinds: ClassVar = (LlavaOnevisionForConditionalGeneration,)
    pixel_inputs: ClassVar = {
        "image": ("pixel_values", "image_sizes", "batch_num_images"),
        "video": ("pixel_values_videos", "image_sizes_videos"),
    }
    smallest: ClassVar = {
        "llava_onevision": {
            "image_token_index": IMAGE,
            "video_token_index": VIDEO,
            "vision_config": TOWER
            | {"model_type": "siglip_vision_model", "vision_use_head": False},
            "text_config": TEXT | {"model_type": "qwen2"},
            "image_grid_pinpoints": [[16, 32], [32, 16]],
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        }
    }

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        pixels = inputs.get(self.pixel_inputs[modality][0])
        if pixels is None:
            return None
        self.require_as_configured(inputs, "vision_feature_select_strategy", "vision_aspect_ratio")
        if modality == "video":
            videos, frames = map(int, pixels.shape[:2])
            vision = self.config.vision_config
            # pooling halves the grid of patches, rounding up
            side = (vision.image_size // vision.patch_size + 1) // 2
            return (equal_groups(frames, side**2, newline_tokens=1),) * videos
        numbers = inputs.get("batch_num_images")
        if numbers is None:
            return image_items(self.geometry, inputs)
        return image_items(
            self.geometry, inputs, [n == 1 for n in numbers.tolist() for _ in range(n)]
        )

    def pooled(self, x: Tensor, modality: str) -> Tensor:
        x = super().pooled(x, modality)
        return self.inner.apply_pooling(x) if modality == "video" else x

    def check(self) -> None:
        """The tower's tokens must fill a grid."""
        super().check()
        _ = self.geometry
