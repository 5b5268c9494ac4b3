"""How many parameters a model has, as transformers builds it, and the bytes of its weights."""

from collections.abc import Iterable

from aim_cost.models.image_rule import Anyres
from aim_cost.models.linear import Linear, parameters_of
from aim_cost.models.model import ModelSpec
from aim_cost.models.text_spec import TextSpec


def text_parameters(text: TextSpec) -> int:
    """Parameters of the LLM with its head; a tied head is not counted twice."""
    hidden = text.hidden_size
    norms = 2 * hidden + 2 * text.head_dim * text.has_head_norms
    layer = parameters_of(text.layer_linears) + norms
    tables = 1 if text.tie_word_embeddings else 2
    return text.num_hidden_layers * layer + hidden + tables * text.vocab_size * hidden


def model_parameters(model: ModelSpec) -> int:
    """All parameters: vision tower, projector, newline embedding, LLM."""
    vision, hidden = model.vision, model.text.hidden_size
    if vision.output_size is not None:
        return vision.parameters + text_parameters(model.text)
    projector = (vision.hidden_size + hidden) * hidden + 2 * hidden * model.projector_bias
    newline = hidden if isinstance(model.image_rule, Anyres) else 0
    return vision.parameters + projector + newline + text_parameters(model.text)


def weights_bytes(model: ModelSpec, width: int) -> int:
    """Bytes of all weights: quantised ones as the checkpoint holds them, others ``width`` each."""
    total, method = width * model_parameters(model), model.quantization
    if method is None:
        return total
    for linear in (*model.vision_linears, *model.text.linears):
        if method.converts(linear):
            total += method.matrix_bytes(linear) - width * linear.weights
    return total


def unpacked_bytes(model: ModelSpec, linears: Iterable[Linear], width: int) -> int:
    """Bytes of the largest of ``linears`` that is quantised and laid out to be multiplied."""
    method = model.quantization
    if method is None or not method.unpacks:
        return 0
    return width * max((x.weights for x in linears if method.converts(x)), default=0)
