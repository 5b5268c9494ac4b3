"""read_vision: the tower that the ``vision_config`` of a Hugging Face config describes."""

from collections.abc import Callable
from typing import Any

from aim_cost.checks import sequence
from aim_cost.errors import SpecError
from aim_cost.models.config import Section
from aim_cost.models.qwen_vision import QwenVisionSpec
from aim_cost.models.vision import VisionSpec
from aim_cost.models.vision_spec import Tower


def read_vision(config: Section) -> Tower:
    """The tower that a ``vision_config`` describes. Raises: SpecError that names the field."""
    return _READERS[config.choice("model_type", _READERS)](config)


def _vit(config: Section) -> VisionSpec:
    return VisionSpec(
        model_type=config.get("model_type"),
        hidden_size=config.whole("hidden_size"),
        intermediate_size=config.whole("intermediate_size"),
        num_hidden_layers=config.whole("num_hidden_layers"),
        num_attention_heads=config.whole("num_attention_heads"),
        patch_size=config.whole("patch_size"),
        image_size=config.whole("image_size"),
        num_channels=config.whole("num_channels"),
    )


def _qwen2_vl(config: Section) -> QwenVisionSpec:
    hidden = config.whole("embed_dim")
    return QwenVisionSpec(
        **_qwen(config),
        hidden_size=hidden,
        intermediate_size=hidden * config.whole("mlp_ratio"),
        output_size=config.whole("hidden_size"),
    )


def _qwen2_5_vl(config: Section) -> QwenVisionSpec:
    blocks = sequence(
        config.get("fullatt_block_indexes"), config.where("fullatt_block_indexes"), SpecError
    )
    return QwenVisionSpec(
        **_qwen(config),
        hidden_size=config.whole("hidden_size"),
        intermediate_size=config.whole("intermediate_size"),
        output_size=config.whole("out_hidden_size"),
        window_size=config.whole("window_size"),
        full_blocks=blocks,
    )


def _qwen(config: Section) -> dict[str, Any]:
    return {
        "model_type": config.get("model_type"),
        "num_hidden_layers": config.whole("depth"),
        "num_attention_heads": config.whole("num_heads"),
        "patch_size": config.whole("patch_size"),
        "num_channels": config.whole("in_channels"),
        "temporal_patch_size": config.whole("temporal_patch_size"),
        "spatial_merge_size": config.whole("spatial_merge_size"),
    }


_READERS: dict[str, Callable[[Section], Tower]] = {
    "siglip_vision_model": _vit,
    "clip_vision_model": _vit,
    "qwen2_vl_vision": _qwen2_vl,
    "qwen2_5_vl_vision": _qwen2_5_vl,
}
