"""How many parameters a model has, as transformers builds it."""

from aim_cost.model import ModelSpec, TextSpec, VisionSpec


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
    hidden = model.text.hidden_size
    projector = model.vision.hidden_size * hidden + hidden * hidden + 2 * hidden
    newline = hidden if model.model_type == "llava_onevision" else 0
    return vision_parameters(model.vision) + projector + newline + text_parameters(model.text)
