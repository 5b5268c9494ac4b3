"""The tiny model: the real class with small dims, and its checkpoint."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from aim_runtime.models.part import Part
from aim_runtime.tiny.questions import VOCABULARY, WORD_ID
from aim_runtime.tiny.scenes import FRAME_SIZE

_PATCH = 4
PREFIX = (WORD_ID["<bos>"], WORD_ID["<user>"])


def tiny_config(frame_size: int = FRAME_SIZE) -> LlavaOnevisionConfig:
    """0.83 M parameters: SigLIP of 4 layers, Qwen2 of 8.

    Args: frame_size, pixels of the sides of a frame: 32 gives it 16 tokens, 48 gives it 36.
    """
    return LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "patch_size": _PATCH,
            "image_size": frame_size,
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


def new_model(seed: int, frame_size: int = FRAME_SIZE) -> LlavaOnevisionForConditionalGeneration:
    """An untrained model, whose projector starts with larger weights than the config says."""
    assert len(VOCABULARY) <= 48
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(tiny_config(frame_size))
    for module in model.model.multi_modal_projector.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return model


@torch.no_grad()
def start_with(
    model: LlavaOnevisionForConditionalGeneration, other: LlavaOnevisionForConditionalGeneration
) -> None:
    """Copy all weights of a model of other frames; its tower's places are interpolated."""
    weights, own = other.state_dict(), model.state_dict()
    for name, weight in weights.items():
        if weight.shape != own[name].shape:  # places[patches, hidden]
            sides = [math.isqrt(len(x)) for x in (weight, own[name])]
            grid = weight.T.unflatten(1, (sides[0], sides[0]))[None]
            grid = functional.interpolate(grid, (sides[1], sides[1]), mode="bilinear")
            weight = grid[0].flatten(1).T
        own[name].copy_(weight)


def frame_size(model: LlavaOnevisionForConditionalGeneration) -> int:
    """Pixels of the sides of a frame that a tiny model takes."""
    tower: Part = model.config.vision_config
    size: int = tower.image_size
    return size


def frame_tokens(model: LlavaOnevisionForConditionalGeneration) -> int:
    """Visual tokens of a frame: its patches, pooled 2 x 2."""
    return (frame_size(model) // (2 * _PATCH)) ** 2


def frame_features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The visual tokens of each frame: pixels[n, 3, size, size] -> [n, tokens, hidden]."""
    pooled: Tensor = model.model.apply_pooling(patch_features(model, pixels))
    return pooled


def patch_features(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The same before pooling: pixels[n, 3, size, size] -> [n, patches, hidden]."""
    core = model.model
    # the last hidden state before the final norm is what the model reads
    layer = model.config.vision_feature_layer
    patches = core.vision_tower(pixels, output_hidden_states=True).hidden_states[layer]
    projected: Tensor = core.multi_modal_projector(patches)
    return projected


def video_embeddings(model: LlavaOnevisionForConditionalGeneration, features: Tensor) -> Tensor:
    """Visual tokens of clips: features[B, F, tokens, hidden] -> [B, F * tokens + 1, hidden]."""
    newline = model.model.image_newline.expand(len(features), 1, -1)
    return torch.cat([features.flatten(1, 2), newline], dim=1)
