"""LLaVA-1.5 and its like: images of one size, each the patches of CLIP or SigLIP."""

from typing import ClassVar

from transformers import LlavaForConditionalGeneration

from aim_runtime.models.adapter import Adapter, Items
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.small_parts import LLAVA
from aim_runtime.models.visual import equal_groups


class LlavaAdapter(Adapter):
    """Each image is a group, 576 tokens of CLIP at 336 x 336 pixels.

    "default" leaves out the first token of the tower, which is CLIP's class token and SigLIP's
    first patch; "full" keeps all.
    """

    kinds: ClassVar = (LlavaForConditionalGeneration,)
    pixel_inputs: ClassVar = {"image": ("pixel_values", "image_sizes")}
    smallest: ClassVar = {"llava": LLAVA}

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return None
        patch = self.config.vision_config.patch_size
        height, width = pixels.shape[-2:]
        tokens = (height // patch) * (width // patch) + self.class_tokens
        select = inputs.get("vision_feature_select_strategy")
        select = select or self.config.vision_feature_select_strategy
        return (equal_groups(1, tokens - (select == "default")),) * len(pixels)

    def check(self) -> None:
        """The tower must be one whose tokens are counted."""
        super().check()
        _ = self.class_tokens
