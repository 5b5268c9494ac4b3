"""smallest_model(): a tiny random model of a supported class, for quick checks."""

from typing import Any

import torch
from transformers import PreTrainedModel

from aim_runtime.models.adapter import config_class

_HIDDEN, _PATCH = 64, 4
_IMAGE, _VIDEO = 250, 251  # token ids of the placeholders
_TEXT = {
    "vocab_size": 256,
    "hidden_size": _HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 4 * _PATCH,
    "patch_size": _PATCH,
}
_QWEN_TEXT = _TEXT | {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 3, 3],
    }
}
_QWEN_TOWER = {"depth": 2, "num_heads": 2, "patch_size": _PATCH, "spatial_merge_size": 2}
_QWEN_TOKENS = {
    "image_token_id": _IMAGE,
    "video_token_id": _VIDEO,
    "vision_start_token_id": 252,
    "vision_end_token_id": 253,
    "text_config": _QWEN_TEXT,
    "tie_word_embeddings": False,
}
_LLAVA = {
    "image_token_index": _IMAGE,
    "vision_config": _TOWER | {"model_type": "clip_vision_model"},
    "text_config": _TEXT | {"model_type": "llama"},
}

_FIELDS: dict[str, dict[str, Any]] = {
    "qwen2": _TEXT,
    "llama": _TEXT,
    "llava": _LLAVA,
    "llava_next_video": _LLAVA
    | {
        "video_token_index": _VIDEO,
        "image_grid_pinpoints": [[16, 32], [32, 16]],
        "spatial_pool_stride": 2,
    },
    "llava_onevision": {
        "image_token_index": _IMAGE,
        "video_token_index": _VIDEO,
        "vision_config": _TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False},
        "text_config": _TEXT | {"model_type": "qwen2"},
        "image_grid_pinpoints": [[16, 32], [32, 16]],
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    },
    "qwen2_vl": _QWEN_TOKENS
    | {"vision_config": _QWEN_TOWER | {"embed_dim": 32, "hidden_size": _HIDDEN, "mlp_ratio": 2}},
    "qwen2_5_vl": _QWEN_TOKENS
    | {
        "vision_config": _QWEN_TOWER
        | {
            "hidden_size": 32,
            "out_hidden_size": _HIDDEN,
            "intermediate_size": 48,
            "window_size": 4 * _PATCH,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        }
    },
}
"""The fields of each model_type's config that differ from the defaults."""


def smallest_model(kind: type[PreTrainedModel]) -> PreTrainedModel:
    """A model of the class ``kind``: 4 decoder layers of 64, fp32, on the CPU, the same each time.

    Raises: KeyError for a class whose model_type has no entry here.
    """
    config = config_class(kind)
    fields = _FIELDS[config.model_type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config(**fields))
    model.eval()
    return model
