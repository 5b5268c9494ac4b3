"""Config fields of a tiny LLM, a tiny tower and a tiny LLaVA, which adapters build on."""

from typing import Any

HIDDEN, PATCH = 64, 4
IMAGE, VIDEO = 250, 251  # token ids of the placeholders
TEXT: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": HIDDEN,
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
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 4 * PATCH,
    "patch_size": PATCH,
}
LLAVA: dict[str, Any] = {
    "image_token_index": IMAGE,
    "vision_config": TOWER | {"model_type": "clip_vision_model"},
    "text_config": TEXT | {"model_type": "llama"},
}
"""A whole model of CLIP and Llama."""

TILED_LLAVA: dict[str, Any] = LLAVA | {"image_grid_pinpoints": [[16, 32], [32, 16]]}
"""The same of those whose images are cut into tiles."""
