"""FAMILIES: what all models of a model_type have in common, beyond the fields of their configs.

A family whose tower, LLM and image rule are known is one entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aim_cost.models.config import Section
from aim_cost.models.image_rule import ImageRule, next_images, onevision_images, qwen_images
from aim_cost.models.pooling import Pooling, next_video_pooling, onevision_pooling
from aim_cost.models.vision_spec import Tower


@dataclass(frozen=True)
class Family:
    """What all models of a model_type have in common.

    Args:
        towers, decoders: the model_types of the towers and LLMs that are modelled. The first is
            what a section is that names none.
        defaults: what the class in transformers assumes of a field that a config leaves out.
        tower: the fields of the tower where a config has no ``vision_config``.
        images: reads how an image is cut or resized; None: it is resized to one square view.
        pooling: reads how a video's frames are pooled; None where they are not.
        newline_tokens: tokens that follow the last frame of a video.
        fills_grid: whether the features of an image must be one for each patch.
        joins_videos: whether the features of several videos are joined into a copy.
        flat_text: whether the fields of the LLM may stand at the root of a config.
        ties_by_text: whether ``tie_word_embeddings`` of the LLM's section ties too.
        frames_apart: whether text, a timestamp, stands between the groups of a video.
    """

    towers: tuple[str, ...]
    decoders: tuple[str, ...]
    defaults: Mapping[str, Any]
    tower: Mapping[str, Any] = field(default_factory=dict)
    images: Callable[[Section, Mapping[str, Any]], ImageRule] | None = None
    pooling: Callable[[Section, Tower], Pooling] | None = None
    newline_tokens: int = 0
    fills_grid: bool = True
    joins_videos: bool = True
    flat_text: bool = False
    ties_by_text: bool = True
    frames_apart: bool = False


_LLAVA = {
    "vision_feature_select_strategy": "default",
    "vision_feature_layer": -2,
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": True,
    "tie_word_embeddings": False,
    "vision_config": None,
    "text_config": None,
}
_CLIP_LARGE = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
}
_SIGLIP_LARGE = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 384,
    "vision_use_head": False,
}
_QWEN_VL = {"tie_word_embeddings": False, "vision_config": None, "text_config": None}

FAMILIES: dict[str, Family] = {
    "llava": Family(
        towers=("clip_vision_model", "siglip_vision_model"),
        decoders=("llama", "mistral", "qwen2"),
        defaults=_LLAVA,
        tower=_CLIP_LARGE,
        fills_grid=False,
    ),
    "llava_next": Family(
        towers=("clip_vision_model", "siglip_vision_model"),
        decoders=("llama", "mistral", "qwen2"),
        defaults=_LLAVA | {"image_grid_pinpoints": None},
        tower=_CLIP_LARGE,
        images=next_images,
    ),
    "llava_next_video": Family(
        towers=("clip_vision_model", "siglip_vision_model"),
        decoders=("llama", "mistral", "qwen2"),
        defaults=_LLAVA
        | {"spatial_pool_mode": "average", "spatial_pool_stride": 2, "image_grid_pinpoints": None},
        tower=_CLIP_LARGE,
        images=next_images,
        pooling=next_video_pooling,
    ),
    "llava_onevision": Family(
        towers=("siglip_vision_model", "clip_vision_model"),
        decoders=("qwen2", "llama", "mistral"),
        defaults=_LLAVA
        | {
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
            "vision_aspect_ratio": "anyres_max_9",
            "image_grid_pinpoints": None,
        },
        tower=_SIGLIP_LARGE,
        images=onevision_images,
        pooling=onevision_pooling,
        newline_tokens=1,
        joins_videos=False,
    ),
    "qwen2_vl": Family(
        towers=("qwen2_vl_vision",),
        decoders=("qwen2_vl_text",),
        defaults=_QWEN_VL,
        images=qwen_images,
        flat_text=True,
    ),
    "qwen2_5_vl": Family(
        towers=("qwen2_5_vl_vision",),
        decoders=("qwen2_5_vl_text",),
        defaults=_QWEN_VL,
        images=qwen_images,
        flat_text=True,
    ),
    "qwen3_vl": Family(
        towers=("qwen3_vl_vision",),
        decoders=("qwen3_vl_text",),
        defaults=_QWEN_VL,
        images=qwen_images,
        ties_by_text=False,
        frames_apart=True,
    ),
}
"""The families that are modelled, by the model_type of the whole config."""
