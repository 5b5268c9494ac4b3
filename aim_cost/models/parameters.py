"""How many parameters a model has, as transformers builds it."""

from aim_cost.models.model import ModelSpec, TextSpec


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
    if vision.output_size is not None:
        return vision.parameters + text_parameters(model.text)
    projector = vision.hidden_size * hidden + hidden * hidden + 2 * hidden
    newline = hidden if model.pooling is not None else 0
    return vision.parameters + projector + newline + text_parameters(model.text)
