"""LLaVA-NeXT: images of any size, cut into tiles."""

from typing import ClassVar

from transformers import LlavaNextForConditionalGeneration, PreTrainedModel

from aim_runtime.models.adapter import Adapter, Items
from aim_runtime.models.images import image_items
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.small_parts import TILED_LLAVA


class LlavaNextAdapter(Adapter):
    """The base view of an image is a group, 576 tokens at 336 x 336 pixels, and so is each tile."""

    kinds: ClassVar[tuple[type[PreTrainedModel], ...]] = (LlavaNextForConditionalGeneration,)
    pixel_inputs: ClassVar = {"image": ("pixel_values", "image_sizes")}
    smallest: ClassVar = {"llava_next": TILED_LLAVA}

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        if inputs.get("pixel_values") is None:
            return None
        self.require_as_configured(inputs, "vision_feature_select_strategy")
        return image_items(self.geometry, inputs)

    def check(self) -> None:
        """The tower's tokens must fill a grid."""
        super().check()
        _ = self.geometry
