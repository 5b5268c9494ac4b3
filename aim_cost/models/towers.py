"""read_vision: the tower that the ``vision_config`` of a Hugging Face config describes."""

from collections.abc import Callable
from typing import Any

from aim_cost.checks import sequence, whole
from aim_cost.errors import SpecError
from aim_cost.models.config import MOST_LAYERS, Section
from aim_cost.models.deepstack_vision import DeepStackVisionSpec
from aim_cost.models.qwen_vision import QwenVisionSpec
from aim_cost.models.vision import VisionSpec
from aim_cost.models.vision_spec import DEFAULT_FRAME_SIZE, Tower

_MOST_SIDE = 2**14  # pixels
_MOST_MERGED = 2**6  # frames, or patches of a side
_ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")


def read_vision(config: Section) -> Tower:
    """The tower that a ``vision_config`` describes. Raises: SpecError that names the field."""
    return _READERS[config.choice("model_type", _READERS)](config)


def _vit(config: Section) -> VisionSpec:
    is_siglip = config.get("model_type") == "siglip_vision_model"
    return VisionSpec(
        model_type=config.get("model_type"),
        hidden_size=config.whole("hidden_size"),
        intermediate_size=config.whole("intermediate_size"),
        num_hidden_layers=config.whole("num_hidden_layers", most=MOST_LAYERS),
        num_attention_heads=config.whole("num_attention_heads"),
        patch_size=config.whole("patch_size", most=_MOST_SIDE),
        image_size=config.whole("image_size", most=_MOST_SIDE),
        num_channels=config.whole("num_channels"),
        hidden_act=config.choice("hidden_act", _ACTIVATIONS),
        has_head=is_siglip and config.flag("vision_use_head"),
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
    where = config.where("fullatt_block_indexes")
    blocks = sequence(config.get("fullatt_block_indexes"), where, SpecError)
    return QwenVisionSpec(
        **_qwen(config),
        hidden_size=config.whole("hidden_size"),
        intermediate_size=config.whole("intermediate_size"),
        output_size=config.whole("out_hidden_size"),
        window_size=config.whole("window_size"),
        full_blocks=tuple(whole(block, where, SpecError, at_least=0) for block in blocks),
    )


def _qwen3_vl(config: Section) -> DeepStackVisionSpec:
    where = config.where("deepstack_visual_indexes")
    blocks = sequence(config.get("deepstack_visual_indexes"), where, SpecError)
    return DeepStackVisionSpec(
        **_qwen(config),
        hidden_size=config.whole("hidden_size"),
        intermediate_size=config.whole("intermediate_size"),
        output_size=config.whole("out_hidden_size"),
        position_embeddings=config.whole("num_position_embeddings"),
        feature_blocks=tuple(whole(block, where, SpecError, at_least=0) for block in blocks),
    )


def _qwen(config: Section) -> dict[str, Any]:
    for alias, own in (("num_attention_heads", "num_heads"), ("num_hidden_layers", "depth")):
        if alias in config.values and config.values[alias] != config.get(own):
            raise SpecError(
                config.where(alias),
                expected=f"none: releases of transformers differ in whether it means {own}",
                got=config.values[alias],
                fix=f"Name it {own}.",
            )
    patch = config.whole("patch_size", most=_MOST_SIDE)
    merged = config.whole("spatial_merge_size", most=_MOST_MERGED)
    unit = patch * merged
    height, width = (max(1, side // unit) * unit for side in DEFAULT_FRAME_SIZE)
    return {
        "model_type": config.get("model_type"),
        "num_hidden_layers": config.whole("depth", most=MOST_LAYERS),
        "num_attention_heads": config.whole("num_heads"),
        "patch_size": patch,
        "num_channels": config.whole("in_channels"),
        "temporal_patch_size": config.whole("temporal_patch_size", most=_MOST_MERGED),
        "spatial_merge_size": merged,
        "hidden_act": config.choice("hidden_act", _ACTIVATIONS),
        "frame_size": (height, width),
    }


_READERS: dict[str, Callable[[Section], Tower]] = {
    "siglip_vision_model": _vit,
    "clip_vision_model": _vit,
    "qwen2_vl_vision": _qwen2_vl,
    "qwen2_5_vl_vision": _qwen2_5_vl,
    "qwen3_vl_vision": _qwen3_vl,
}
