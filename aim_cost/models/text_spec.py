"""TextSpec: the LLM of a model, and how it is read from a Hugging Face config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aim_cost.checks import mapping, one_of, sequence
from aim_cost.errors import SpecError
from aim_cost.models.config import MOST_LAYERS, MOST_TOKENS, Section, bounded
from aim_cost.models.linear import Linear

ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "relu", "silu")
"""Those of one kernel, for an MLP and for a projector."""

_ROPE_FACTORS = {"linear": True, "dynamic": True, "yarn": True, "llama3": False, "longrope": False}
"""Kinds of stretched positions; whether the factor is not yet in max_position_embeddings."""

_NAMED_MROPE = ("qwen2_vl_text", "qwen2_5_vl_text")
"""LLMs whose configs may call positions on three axes a kind of scaling."""


@dataclass(frozen=True)
class TextSpec:
    """A decoder-only LLM. Fields keep their Hugging Face names.

    Args:
        model_type: ``qwen2``, ``qwen3``, ``llama`` or ``mistral``: those of Qwen's vision-language
            models have other position angles, which cost nothing that is counted.
        has_qkv_bias, has_output_bias, has_mlp_bias: of the products of attention and MLP.
        has_head_norms: whether each head of q and of k is normed, as in Qwen3.
        positions: tokens of the longest prompt that the model was made for, a stretching of the
            positions included.
        sliding_window: tokens that a token of a sliding layer attends to; None where none slides.
        sliding_layers: how many layers slide.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_mlp_bias: bool = False
    has_head_norms: bool = False
    positions: int = MOST_TOKENS
    sliding_window: int | None = None
    sliding_layers: int = 0

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise SpecError(
                "text_config.num_key_value_heads",
                expected=f"a divisor of num_attention_heads = {self.num_attention_heads}",
                got=self.num_key_value_heads,
                fix="Correct one of the two.",
            )
        if self.head_dim % 2:
            raise SpecError(
                "text_config.head_dim",
                expected="an even number: positions turn pairs of elements",
                got=self.head_dim,
                fix="Correct head_dim, or hidden_size and num_attention_heads, which it follows.",
            )

    @property
    def query_dim(self) -> int:
        """Width of q and of the attention output, elements."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_dim(self) -> int:
        """Width of k and of v, elements."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_linears(self) -> tuple[Linear, ...]:
        """The matrices of one layer, paths inside the layer."""
        hidden, inner, key = self.hidden_size, self.intermediate_size, self.key_value_dim
        qkv, mlp = self.has_qkv_bias, self.has_mlp_bias
        return (
            Linear(("self_attn.q_proj",), hidden, self.query_dim, qkv),
            Linear(("self_attn.k_proj",), hidden, key, qkv),
            Linear(("self_attn.v_proj",), hidden, key, qkv),
            Linear(("self_attn.o_proj",), self.query_dim, hidden, self.has_output_bias),
            Linear(("mlp.gate_proj",), hidden, inner, mlp),
            Linear(("mlp.up_proj",), hidden, inner, mlp),
            Linear(("mlp.down_proj",), inner, hidden, mlp),
        )

    @property
    def linears(self) -> tuple[Linear, ...]:
        """All matrices of layers and head, paths inside the model; a tied head is none."""
        layers = tuple(
            linear.under(
                f"model.language_model.layers.{layer}",
                f"language_model.model.layers.{layer}",
                f"model.layers.{layer}",
            )
            for layer in range(self.num_hidden_layers)
            for linear in self.layer_linears
        )
        head = Linear(("lm_head", "language_model.lm_head"), self.hidden_size, self.vocab_size)
        return layers if self.tie_word_embeddings else (*layers, head)


def read_text(config: Section, *, tied: bool) -> TextSpec:
    """The LLM that a section describes, as transformers builds it; ``tied``: see TextSpec.

    Raises: SpecError that names the field.
    """
    kind = config.get("model_type")
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    layers = config.whole("num_hidden_layers", most=MOST_LAYERS)
    config.choice("hidden_act", ACTIVATIONS)
    window, sliding = _window(config, kind, layers)
    is_llama, is_qwen3 = kind == "llama", kind.startswith("qwen3")
    output_bias = (is_llama or is_qwen3) and config.flag("attention_bias")
    return TextSpec(
        model_type=kind.split("_")[0],
        hidden_size=hidden,
        intermediate_size=config.whole("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=config.optional("num_key_value_heads") or heads,
        head_dim=_head_dim(config, kind, hidden, heads),
        vocab_size=config.whole("vocab_size", most=MOST_TOKENS),
        tie_word_embeddings=tied,
        has_qkv_bias=output_bias or kind.startswith("qwen2"),
        has_output_bias=output_bias,
        has_mlp_bias=is_llama and config.flag("mlp_bias"),
        has_head_norms=is_qwen3,
        positions=_positions(config),
        sliding_window=window,
        sliding_layers=sliding,
    )


def _head_dim(config: Section, kind: str, hidden: int, heads: int) -> int:
    """The size of a head; Llama's and Qwen2-VL's classes refuse heads that do not divide."""
    given = config.optional("head_dim")
    derived_only = kind in ("qwen2_vl_text", "qwen2_5_vl_text")
    if hidden % heads and (given is None or derived_only or kind == "llama"):
        raise SpecError(
            config.where("hidden_size"),
            expected=f"a multiple of num_attention_heads = {heads}",
            got=hidden,
            fix="Correct one of the two.",
        )
    if derived_only and given not in (None, hidden // heads):
        raise SpecError(
            config.where("head_dim"),
            expected=f"hidden_size / num_attention_heads = {hidden // heads}, or none",
            got=given,
            fix="Leave it out: the class of this model does not read it.",
        )
    return hidden // heads if given is None else given


def _window(config: Section, kind: str, layers: int) -> tuple[int | None, int]:
    """The sliding window and how many layers have it; None and 0 where all attend to all."""
    slides = kind == "mistral"
    if kind.startswith("qwen2") and config.values.get("use_sliding_window") is not None:
        slides = config.flag("use_sliding_window")
    window = config.optional("sliding_window", most=MOST_TOKENS) if slides else None
    listed = _listed_sliding(config, layers)
    if listed and window is None:
        raise SpecError(
            config.where("layer_types"),
            expected="full_attention alone, where no sliding_window is in use",
            got=f"sliding_attention in {listed} layers",
            fix="Set use_sliding_window and sliding_window, or leave layer_types out.",
        )
    if window is None:
        return None, 0
    if kind == "mistral":
        return window, layers
    if listed is None:
        full = config.get("max_window_layers")
        if full != 0:
            full = bounded(full, config.where("max_window_layers"), MOST_TOKENS)
        listed = max(0, layers - full)
    return (window, listed) if listed else (None, 0)


def _listed_sliding(config: Section, layers: int) -> int | None:
    """How many layers slide by ``layer_types``; None where the config does not list them."""
    types, where = config.values.get("layer_types"), config.where("layer_types")
    if types is None:
        return None
    known = ("full_attention", "sliding_attention")
    found = [one_of(name, known, where, SpecError) for name in sequence(types, where, SpecError)]
    if len(found) != layers:
        raise SpecError(
            where,
            expected=f"an entry for each of {layers} layers",
            got=f"{len(found)} entries",
            fix="Correct num_hidden_layers, or leave layer_types out.",
        )
    return found.count("sliding_attention")


def _positions(config: Section) -> int:
    """``max_position_embeddings``, and how far rope scaling stretches them."""
    positions = config.whole("max_position_embeddings", most=MOST_TOKENS)
    key = "rope_scaling" if config.values.get("rope_scaling") else "rope_parameters"
    given = config.values.get(key)
    if given is None:
        return positions
    where = config.where(key)
    scaling: Mapping[str, Any] = mapping(given, where, SpecError)
    named = config.get("model_type") in _NAMED_MROPE
    plain = ("default", "mrope") if named else ("default",)
    kind = one_of(
        scaling.get("rope_type", scaling.get("type", "default")),
        (*_ROPE_FACTORS, *plain),
        f"{where}.rope_type",
        SpecError,
    )
    if not _ROPE_FACTORS.get(kind, False):
        return positions
    factor = scaling.get("factor")
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 1 <= factor < 1e6:
        raise SpecError(
            f"{where}.factor", expected="a number from 1 to 10**6", got=factor, fix="Correct it."
        )
    own = scaling.get("original_max_position_embeddings")
    if own is None:
        return int(positions * factor)
    own = bounded(own, f"{where}.original_max_position_embeddings", MOST_TOKENS)
    return max(positions, int(own * factor))
