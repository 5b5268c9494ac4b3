"""Seams: the parts of transformers that the runtime relies on, and how versions of it differ.

Nothing else in this package reads a version of transformers or spells a name that changed between
two of them. What a version calls a thing is read from the signatures of its own classes.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Cache,
    DynamicCache,
    PreTrainedModel,
    Qwen2Model,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_outputs import BaseModelOutputWithPast

from aim_runtime.errors import PatchError
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.part import Part
from aim_runtime.models.visual import VisualItem

Args = tuple[Any, ...]

OLDEST_TESTED, NEWEST_TESTED = (5, 17), (5, 24)
"""The releases of transformers, oldest and newest, that run every test of the runtime."""
TESTED = f"transformers {'.'.join(map(str, OLDEST_TESTED))} to {'.'.join(map(str, NEWEST_TESTED))}"
WAY_OUT = "Install a tested release: pip install 'transformers>={}.{},<{}.{}'.".format(
    *OLDEST_TESTED, NEWEST_TESTED[0], NEWEST_TESTED[1] + 1
)

_TOWER_STATES_DROPPED = (5, 18)  # the first release whose models take ready features
_CACHE_NAMES = ("cache", "past_key_values")  # since 5.24, before; newest first
_VIDEO_PIXELS = "pixel_values_videos"


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _hands_on(function: Callable[..., Any]) -> bool:
    """Whether a function takes anything, ``*args`` and ``**kwargs``, as a caller's wrapper does."""
    kinds = {part.kind for part in inspect.signature(function).parameters.values()}
    return kinds >= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _cache_argument() -> str:
    accepted = _parameters(Qwen2Model.forward)
    return next((name for name in _CACHE_NAMES if name in accepted), _CACHE_NAMES[0])


CACHE = _cache_argument()
"""What models, decoders, layers, attentions and ``generate`` call the argument of the KV cache."""


def is_tested() -> bool:
    """Whether the installed transformers lies between the releases that were tested."""
    return OLDEST_TESTED <= Version(transformers.__version__).release[:2] <= NEWEST_TESTED


def named(module: nn.Module, args: Args, kwargs: Inputs) -> Inputs:
    """A module's arguments by name; an older name of the cache becomes today's.

    A forward hook sees what the caller wrote, before transformers translates old names.
    """
    names = _parameters(module.forward) if args else ()
    return with_new_names(dict(zip(names, args, strict=False)) | kwargs)


def with_new_names(inputs: Inputs) -> Inputs:
    """``inputs`` with the cache under ``CACHE``, by whichever name the caller passed it."""
    older = [name for name in _CACHE_NAMES if name != CACHE and inputs.get(name) is not None]
    if not older or inputs.get(CACHE) is not None:  # both: transformers says which one to use
        return inputs
    rest = {name: value for name, value in inputs.items() if name not in _CACHE_NAMES}
    return rest | {CACHE: inputs[older[0]]}


def ids_in(given: Inputs) -> Tensor | None:
    """The prompt's ids among the arguments of ``generate``, under either of their names."""
    ids: Tensor | None = given.get("inputs")
    return given.get("input_ids") if ids is None else ids


def cache_in(inputs: Inputs) -> Any:
    """The KV cache among a call's arguments by name; None without one."""
    return next((inputs[name] for name in _CACHE_NAMES if inputs.get(name) is not None), None)


def cache_of(output: Any) -> Any:
    """The KV cache of a model's output; None where it has none."""
    for name in _CACHE_NAMES:
        cache = getattr(output, name, None)
        if cache is not None:
            return cache
    return None


def with_cache(cache: Cache | None) -> Inputs:
    """The cache as an argument: ``model(input_ids=ids, **with_cache(cache))``."""
    return {CACHE: cache}


def with_video_pixels(given: Inputs) -> Inputs:
    """The arguments of ``get_video_features`` with the pixels under the name that models use.

    Some classes of older releases call them ``pixel_values``, as those of images.
    """
    if "pixel_values" not in given:
        return given
    rest = {name: value for name, value in given.items() if name != "pixel_values"}
    return rest | {_VIDEO_PIXELS: given["pixel_values"]}


def under_names_of(given: Inputs, pixels: Inputs) -> Inputs:
    """``pixels``, as of ``with_video_pixels``, under the names that ``given`` had before."""
    if "pixel_values" not in given:
        return pixels
    rest = {name: value for name, value in pixels.items() if name != _VIDEO_PIXELS}
    return rest | {"pixel_values": pixels[_VIDEO_PIXELS]}


def lack_newlines(features: Tensor, tokens: int) -> bool:
    """Whether features [items, n, hidden] of items of ``tokens`` come without their newlines.

    ``get_video_features`` of LLaVA-OneVision appends them itself in newer versions; in older ones
    the model's forward does.
    """
    return features.shape[1] != tokens


_DEEPSTACK = "_deepstack_process"


def has_deepstack(decoder: Part) -> bool:
    """Whether a decoder adds features of inner blocks of the tower after its first layers."""
    return hasattr(decoder, _DEEPSTACK)


def deepstack_levels(output: Any, items: Sequence[VisualItem]) -> list[list[Tensor]]:
    """The features of inner blocks in an encoder's ``output``: of each level, those of each item.

    [tokens, H] each; [] of towers that give none. Newer releases hold items apart, as they do the
    tokens; older ones have all in one tensor.
    """
    found = getattr(output, "deepstack_features", None) or ()
    tokens = [item.tokens for item in items]
    return [list(x.split(tokens) if isinstance(x, Tensor) else x) for x in found]


def with_deepstack_levels(output: Any, levels: Sequence[Sequence[Tensor]]) -> None:
    """Put ``levels`` into an encoder's ``output``, in the form in which its release has them."""
    found = getattr(output, "deepstack_features", None)
    if found:
        output.deepstack_features = [
            torch.cat(list(rows)) if isinstance(before, Tensor) else list(rows)
            for before, rows in zip(found, levels, strict=True)
        ]


def tower_keeps_hidden_states(model: Part) -> bool:
    """Whether encoding keeps what every layer of the vision tower gives, and then nothing of it.

    Releases that take ready features keep the tower's output, with its last state alone, for the
    whole prefill; older ones ask the tower for all hidden states and drop them with the output.
    """
    return "mm_encoder_outputs" not in _parameters(model.model.forward)


def release_keeps_tower_states(version: str) -> bool:
    """The same for LLaVA-OneVision under a release of transformers that need not be installed."""
    return Version(version).release < _TOWER_STATES_DROPPED


@dataclass(frozen=True)
class Seam:
    """One thing of transformers that a patch relies on.

    Args:
        where: in words, for an error.
        owner: a module, class or function.
        arguments: names that its ``forward``, or itself if it is a function, has to accept.
        attributes: names that it has to have.
    """

    where: str
    owner: Any
    arguments: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    def missing(self) -> tuple[str, ...]:
        """The names that are missing."""
        lacking = [name for name in self.attributes if not hasattr(self.owner, name)]
        is_module = isinstance(self.owner, nn.Module)
        function = self.owner.forward if is_module else self.owner
        if self.arguments and not _hands_on(function):
            accepted = _parameters(function)
            lacking += [name for name in self.arguments if name not in accepted]
        return tuple(lacking)


_LAYER_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def decoder_seams(decoder: Part) -> list[Seam]:
    """The seams of a language model without its head."""
    layer = decoder.layers[0]
    attention = getattr(layer, "self_attn", None)
    name = type(decoder).__name__
    return [
        Seam(
            name,
            decoder,
            ("input_ids", "attention_mask", "position_ids", CACHE, "inputs_embeds", "use_cache"),
            ("layers", "norm", "embed_tokens", "rotary_emb", "set_attn_implementation"),
        ),
        Seam(
            f"{name}.layers",
            layer,
            ("hidden_states", "attention_mask", "position_ids", CACHE, "position_embeddings"),
            _LAYER_PARTS,
        ),
        Seam(
            f"{name}.layers.self_attn",
            attention,
            ("hidden_states", "position_embeddings", "attention_mask", CACHE),
            (*_PROJECTIONS, "layer_idx", "head_dim", "scaling", "attention_dropout"),
        ),
        Seam("DynamicCache", DynamicCache(), (), ("get_seq_length", "update", "layers")),
        Seam("Cache.update", Cache.update, ("key_states", "value_states", "layer_idx")),
        Seam("a decoder's output", BaseModelOutputWithPast(), (), (CACHE, "last_hidden_state")),
        Seam("AttentionInterface", AttentionInterface, (), ("register",)),
        Seam("AttentionMaskInterface", AttentionMaskInterface, (), ("register",)),
        Seam(
            "sdpa_attention_forward",
            sdpa_attention_forward,
            ("module", "query", "key", "value", "attention_mask", "scaling"),
        ),
    ]


def deepstack_seams(decoder: Part) -> list[Seam]:
    """The seams of a decoder that adds features after its first layers; [] of others."""
    if not has_deepstack(decoder):
        return []
    names = ("hidden_states", "visual_pos_masks", "visual_embeds")
    where = f"{type(decoder).__name__}.{_DEEPSTACK}"
    return [Seam(where, decoder._deepstack_process, names)]


def model_seams(model: PreTrainedModel, inner: nn.Module, modalities: Iterable[str]) -> list[Seam]:
    """The seams of a vision-language model, except those of its decoder.

    Args: inner, the part that embeds the prompt, ``model.model``; modalities, image or video.
    """
    name = type(model).__name__
    seams = [
        Seam(name, model, ("input_ids", CACHE, "logits_to_keep"), ("lm_head",)),
        Seam(f"{name}.generate", model.generate, ("inputs", "generation_config")),
        Seam(name, model, (), ("_get_candidate_generator", "generation_config")),
        Seam(
            type(inner).__name__,
            inner,
            ("input_ids", "attention_mask", "position_ids", CACHE, "inputs_embeds"),
            tuple(f"get_{modality}_features" for modality in modalities),
        ),
    ]
    if hasattr(inner, "get_rope_index"):
        part, arguments = type(inner).__name__, ("input_ids", "mm_token_type_ids", "attention_mask")
        seams.append(Seam(f"{part}.get_rope_index", inner.get_rope_index, arguments))
        seams.append(Seam(part, inner, (), ("rope_deltas",)))
    return seams


def siglip_seams(layer: nn.Module) -> list[Seam]:
    """The seams of a SigLIP tower that merges."""
    parts = ("layer_norm1", "self_attn", "layer_norm2", "mlp")
    attention = getattr(layer, "self_attn", None)
    return [
        Seam("SiglipEncoderLayer", layer, ("hidden_states", "attention_mask"), parts),
        Seam("SiglipAttention", attention, ("hidden_states", "attention_mask"), ("k_proj",)),
    ]


def tower_attention_seams(layer: Part) -> list[Seam]:
    """The seams of a SigLIP or CLIP layer whose attention a score reads."""
    names = ("q_proj", "k_proj", "num_heads", "scale")
    return [Seam(f"{type(layer).__name__}.self_attn", layer.self_attn, (), names)]


def tower_block_seams(tower: Part, block: Part, *, windows: bool) -> list[Seam]:
    """The seams of a tower of Qwen2-VL or Qwen2.5-VL whose last block's attention a score reads."""
    seams = [
        Seam(
            f"{type(block).__name__}.attn",
            block.attn,
            ("cu_seqlens", "position_embeddings"),
            ("qkv", "num_heads", "scaling"),
        )
    ]
    if windows:
        name, permute = type(tower).__name__, "permute_input_for_window_attn"
        seams.append(Seam(name, tower, (), (permute,)))
        names = ("input_tensor", "window_index", "seq_len")
        seams.append(Seam(f"{name}.{permute}", getattr(tower, permute, None), names))
    return seams


def require_seams(seams: Iterable[Seam]) -> None:
    """Raises: PatchError that names the first part of transformers that differs, and how."""
    for seam in seams:
        missing = seam.missing()
        if missing:
            raise PatchError(
                f"{seam.where} of transformers {transformers.__version__}",
                expected=f"{', '.join(missing)}, as in {TESTED}",
                got="none of that name",
                fix=WAY_OUT,
            )
