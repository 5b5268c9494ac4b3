"""Tiny random models of the real classes, their prompts, and the recorded vectors."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
)

from aim_cost.models.model import preset_config

VIDEO_TOKEN = 250
IMAGE_TOKEN = 251
FRAME_TOKENS = 9  # 75 / 15 = 5 x 5 patches, pooled to 3 x 3


def shared_golden(name: str) -> Path:
    """A file of shared/golden; skips the test where it is absent."""
    root = os.environ.get("AIM_SHARED") or Path(__file__).resolve().parents[3] / "shared"
    path = Path(root) / "golden" / name
    if not path.exists():
        pytest.skip(f"recorded vectors not found at {path}; set AIM_SHARED")
    return path


def text_config(layers: int, **changes: object) -> Qwen2Config:
    """A tiny Qwen2 with grouped heads."""
    fields = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.15,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return Qwen2Config(**fields | changes)


def tiny_qwen2(layers: int = 6, seed: int = 0, **changes: object) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(text_config(layers, **changes)).eval()


def tiny_llava(
    layers: int = 6, seed: int = 0, *, vision_layers: int = 2
) -> LlavaOnevisionForConditionalGeneration:
    torch.manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=vision_layers,
        num_attention_heads=2,
        image_size=75,
        patch_size=15,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text_config(layers),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
        vision_feature_layer=-1,
        image_grid_pinpoints=[[75, 75], [75, 150], [150, 75], [150, 150]],
    )
    return LlavaOnevisionForConditionalGeneration(config).eval()


def video_inputs(
    frames: int = 4, before: int = 5, after: int = 7, batch: int = 1, seed: int = 1
) -> dict[str, torch.Tensor]:
    """A prompt as the processor writes it: text, one run of placeholders, text."""
    generator = torch.Generator().manual_seed(seed)

    def text(count: int) -> torch.Tensor:
        return torch.randint(0, 200, (batch, count), generator=generator)

    placeholders = torch.full((batch, frames * FRAME_TOKENS + 1), VIDEO_TOKEN)
    input_ids = torch.cat([text(before), placeholders, text(after)], dim=1)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values_videos": torch.randn(batch, frames, 3, 75, 75, generator=generator),
    }


def left_padded(prompts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One batch of several prompts; where there is padding, its mask is 0."""
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)

    def padded(name: str) -> torch.Tensor:
        rows = [prompt[name] for prompt in prompts]
        return torch.cat([functional.pad(row, (longest - row.shape[1], 0)) for row in rows])

    batch = {name: padded(name) for name in ("input_ids", "attention_mask")}
    rest = [name for name in prompts[0] if name not in batch]
    return batch | {name: torch.cat([prompt[name] for prompt in prompts]) for name in rest}


def tiny_config(layers=4):
    """A LLaVA-OneVision of the real class with 5 x 5 patches, pooled to 3 x 3 tokens a frame."""
    config = preset_config("llava-onevision-qwen2-0.5b")
    config["vision_config"] |= {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 70,
    }
    config["text_config"] |= {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
    }
    return config | {"image_token_index": 250, "video_token_index": 251}


def mask_of(tokens: int = 20, start: int = 3, end: int = 15, batch: int = 1) -> torch.Tensor:
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    mask[:, start:end] = True
    return mask


def state(model: nn.Module) -> list[object]:
    """Everything a patch could leave behind."""
    return [
        (
            name,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            sorted(vars(module)),
            getattr(getattr(module, "config", None), "_attn_implementation", None),
        )
        for name, module in model.named_modules()
    ]
