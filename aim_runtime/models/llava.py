"""LLaVA-1.5: images of one size, CLIP patches without the class token."""

from typing import ClassVar

from transformers import LlavaForConditionalGeneration

from aim_runtime.models.adapter import Adapter, Inputs, Items
from aim_runtime.visual import Block, VisualItem, equal_groups


class LlavaAdapter(Adapter):
    """Each image is one group of patches, 576 at 336 x 336 pixels."""

    kinds: ClassVar = (LlavaForConditionalGeneration,)
    pixel_inputs: ClassVar = {"image": ("pixel_values", "image_sizes")}

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return None
        vision = self.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        item = equal_groups(1, patches)
        if self.config.vision_feature_select_strategy == "full":  # the class token is not merged
            item = VisualItem(patches + 1, (Block(1, patches, range(1, patches + 1)),))
        return (item,) * len(pixels)
