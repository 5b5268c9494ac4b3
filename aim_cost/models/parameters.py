"""How many parameters a model has, as transformers builds it."""

from aim_cost.models.model import ModelSpec, TextSpec
from aim_cost.models.vision_spec import QwenVisionSpec, VisionSpec


def vision_parameters(vision: VisionSpec) -> int:
    """Parameters of the vision tower: SigLIP without its pooling head, or CLIP's vision model."""
    hidden, inner = vision.hidden_size, vision.intermediate_size
    patch = vision.num_channels * vision.patch_size**2 * hidden
    norm = 2 * hidden
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 2 * norm
    total = patch + vision.tokens * hidden + vision.num_hidden_layers * layer + norm
    if vision.has_class_token:
        return total + hidden + norm  # class embedding; a norm before the layers; no patch bias
    return total + hidden  # bias of the patch embedding


def qwen_vision_parameters(vision: QwenVisionSpec) -> int:
    """Parameters of the tower of Qwen2-VL or Qwen2.5-VL and of its merger."""
    hidden, inner = vision.hidden_size, vision.intermediate_size
    patch = vision.num_channels * vision.temporal_patch_size * vision.patch_size**2 * hidden
    norm = hidden if vision.is_gated else 2 * hidden
    mlp = 2 * hidden * inner + inner + hidden
    if vision.is_gated:
        mlp += hidden * inner + inner
    layer = 4 * (hidden * hidden + hidden) + mlp + 2 * norm
    square = hidden * vision.spatial_merge_size**2
    merger = norm + square * square + square + square * vision.output_size + vision.output_size
    return patch + vision.num_hidden_layers * layer + merger


def text_parameters(text: TextSpec) -> int:
    """Parameters of the LLM with its head; a tied head is not counted twice."""
    hidden = text.hidden_size
    attention = hidden * (2 * text.query_dim + 2 * text.key_value_dim)
    bias = text.query_dim + 2 * text.key_value_dim if text.has_qkv_bias else 0
    layer = attention + bias + 3 * hidden * text.intermediate_size + 2 * hidden
    tables = 1 if text.tie_word_embeddings else 2
    return text.num_hidden_layers * layer + hidden + tables * text.vocab_size * hidden


def model_parameters(model: ModelSpec) -> int:
    """All parameters: vision tower, projector, newline embedding, LLM."""
    vision, hidden = model.vision, model.text.hidden_size
    if isinstance(vision, QwenVisionSpec):
        return qwen_vision_parameters(vision) + text_parameters(model.text)
    projector = vision.hidden_size * hidden + hidden * hidden + 2 * hidden
    newline = hidden if model.pooling is not None else 0
    return vision_parameters(vision) + projector + newline + text_parameters(model.text)
