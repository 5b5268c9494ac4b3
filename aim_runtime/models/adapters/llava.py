"""LLaVA-1.5: images of one size, each the patches of CLIP or of SigLIP."""

from typing import ClassVar

from transformers import LlavaForConditionalGeneration

from aim_runtime.models.adapter import Adapter, Items
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.small_parts import LLAVA
from aim_runtime.models.visual import equal_groups


class LlavaAdapter(Adapter):
    """Each image is a group, 576 tokens at 336 x 336 pixels; "full" keeps CLIP's class token.

    SigLIP has none: "default" drops its first patch, "full" keeps all.
    """

    kinds: ClassVar = (LlavaForConditionalGeneration,)
    pixel_inputs: ClassVar = {"image": ("pixel_values", "image_sizes")}
    smallest: ClassVar = {"llava": LLAVA}

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return None
        vision = self.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        select = inputs.get("vision_feature_select_strategy")
        select = select or self.config.vision_feature_select_strategy
        tokens = patches + (vision.model_type == "clip_vision_model") - (select == "default")
        return (equal_groups(1, tokens),) * len(pixels)
