"""The tiny model: the real class with small dims, and its checkpoint."""

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from aim_runtime.tiny.questions import VOCABULARY, WORD_ID
from aim_runtime.tiny.scenes import FRAME_SIZE

FRAME_TOKENS = 16
PREFIX = (WORD_ID["<bos>"], WORD_ID["<user>"])


def tiny_config() -> LlavaOnevisionConfig:
    """0.83 M parameters: SigLIP of 4 layers, 16 tokens a frame; Qwen2 of 8 layers."""
    return LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "patch_size": 4,
            "image_size": FRAME_SIZE,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": 48,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
            "tie_word_embeddings": True,
            "initializer_range": 0.06,
            "pad_token_id": WORD_ID["<pad>"],
            "bos_token_id": WORD_ID["<bos>"],
            "eos_token_id": None,
        },
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_token_index=WORD_ID["<image>"],
        video_token_index=WORD_ID["<video>"],
        tie_word_embeddings=True,
    )


def new_model(seed: int) -> LlavaOnevisionForConditionalGeneration:
    """An untrained model, whose projector starts with larger weights than the config says."""
    assert len(VOCABULARY) <= 48
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(tiny_config())
    for module in model.model.multi_modal_projector.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return model


def frame_features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The visual tokens of each frame: pixels[n, 3, 32, 32] -> [n, 16, hidden]."""
    pooled: Tensor = model.model.apply_pooling(patch_features(model, pixels))
    return pooled


def patch_features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The same before pooling: pixels[n, 3, 32, 32] -> [n, 64, hidden]."""
    core = model.model
    # the last hidden state before the final norm is what the model reads
    layer = model.config.vision_feature_layer
    patches = core.vision_tower(pixels, output_hidden_states=True).hidden_states[layer]
    projected: Tensor = core.multi_modal_projector(patches)
    return projected


def video_embeddings(model: LlavaOnevisionForConditionalGeneration, features: Tensor) -> Tensor:
    """Visual tokens of clips: features[B, F, 16, hidden] -> [B, F * 16 + 1, hidden]."""
    newline = model.model.image_newline.expand(len(features), 1, -1)
    return torch.cat([features.flatten(1, 2), newline], dim=1)
