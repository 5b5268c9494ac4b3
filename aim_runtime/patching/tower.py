"""Merging inside a SigLIP tower: between attention and MLP, and all places filled at its end.

Source: ToMe, arXiv 2210.09461. The parts of a layer and their order are those of
SiglipEncoderLayer in every tested transformers.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from aim_cost.schedules.vision_merge import VisionMerge
from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import require_uncompiled_tower, uncompiled
from aim_runtime.models.part import Part
from aim_runtime.patching.undo import Changes
from aim_runtime.reduction.merge import match_tokens
from aim_runtime.seams import require_seams, siglip_seams
from aim_runtime.trace import RunTrace, TowerRecord

_MASKED_ATTENTION = ("sdpa", "eager")


class _Run(threading.local):
    """One run of the tower in this thread.

    Args:
        seen: tokens that entered each layer so far.
        sizes: [frames, tokens, 1], once some are merged.
        places: [frames, places], the token that each went into.
        keys: of the layer that runs, until it has merged.
    """

    seen: tuple[int, ...] = ()
    sizes: Tensor | None = None
    places: Tensor | None = None
    keys: Tensor


class TowerMerging:
    """Merges tokens in the vision tower of a model; each run of the tower is told to ``trace``.

    The last layer gives a full frame again, so what reads the last hidden state, the norm after it
    included, finds it as ever; the hidden states between are shorter.
    Raises: PatchError where the tower cannot be merged in, ScheduleError where counts do not fit.
    """

    def __init__(self, adapter: Adapter, merge: VisionMerge, trace: RunTrace) -> None:
        self._merge, self._trace = merge, trace
        self._tower = adapter.tower
        self._layers = _checked_layers(adapter, self._tower, merge)
        self._run = _Run()

    def attach(self, changes: Changes) -> None:
        """Change the tower."""
        layers = self._layers
        changes.replace(self._tower, "forward", uncompiled(self._tower.forward))
        for layer in layers:
            changes.hook(layer.register_forward_pre_hook, self._enter)
        for number in self._merge.merging_layers(len(layers)):
            project = layers[number].self_attn.k_proj
            changes.hook(project.register_forward_hook, self._see_keys)
            changes.replace(layers[number], "forward", self._merging(layers[number]))
        changes.replace(layers[-1], "forward", self._filling(layers[-1]))

    def _enter(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before each layer: count its tokens, and let them weigh what they stand for."""
        hidden_states = args[0]
        if layer is self._layers[0]:
            self._run.seen, self._run.sizes, self._run.places = (), None, None
        self._run.seen += (hidden_states.shape[1],)
        if self._run.sizes is None or self._merge.attention == "plain":
            return None
        weights = self._run.sizes.log().to(hidden_states.dtype).view(len(hidden_states), 1, 1, -1)
        return (hidden_states,), kwargs | {"attention_mask": weights}

    def _see_keys(self, module: nn.Module, args: Any, kwargs: Any, keys: Tensor) -> None:
        self._run.keys = keys

    def _merging(self, layer: SiglipEncoderLayer) -> Callable[..., Tensor]:
        """The forward of a layer that merges between its attention and its MLP."""

        @wraps(layer.forward)
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            # no name for what goes into the merging: memory would peak with it
            hidden_states = self._merged(
                _attended(layer, hidden_states, *args, **kwargs), layer.self_attn.num_heads
            )
            changed: Tensor = layer.mlp(layer.layer_norm2(hidden_states))
            return hidden_states + changed

        return forward

    def _merged(self, x: Tensor, heads: int) -> Tensor:
        """x[frames, tokens, hidden] -> [frames, tokens - remove, hidden], by the keys just seen."""
        frames, tokens, _ = x.shape
        # [frames, tokens, heads * head_dim] -> [frames, tokens, head_dim]
        run = self._run
        keys: Tensor = run.keys.unflatten(-1, (heads, -1)).mean(dim=2)
        del run.keys
        plan = match_tokens(keys, self._merge.remove)
        if run.sizes is None or run.places is None:
            run.sizes = torch.ones(frames, tokens, 1, device=x.device)
            run.places = torch.arange(tokens, device=x.device).expand(frames, -1)
        x, run.sizes = plan.average(x, run.sizes)
        run.places = plan.follow(run.places)
        return x

    def _filling(self, layer: SiglipEncoderLayer) -> Callable[..., Tensor]:
        """The forward of the last layer, whose output has a token at every place again."""
        own = layer.forward

        @wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Tensor:
            x: Tensor = own(*args, **kwargs)
            run = self._run
            self._trace.tower = TowerRecord((*run.seen, x.shape[1]), self._merge.attention)
            places, run.sizes, run.places = run.places, None, None
            if places is None:  # nothing was merged
                return x
            return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))

        return forward


def _attended(
    layer: SiglipEncoderLayer,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """The first half of a layer: its attention, added to what enters."""
    normed = layer.layer_norm1(hidden_states)
    mixed: Tensor
    mixed, _ = layer.self_attn(hidden_states=normed, attention_mask=attention_mask, **kwargs)
    return hidden_states + mixed


def _checked_layers(adapter: Adapter, tower: Part, merge: VisionMerge) -> list[SiglipEncoderLayer]:
    config = adapter.config
    layers = [module for module in tower.modules() if isinstance(module, SiglipEncoderLayer)]
    if not layers:
        raise PatchError(
            "schedule.vision_merge",
            expected="a SigLIP vision tower",
            got=type(tower).__name__,
            fix="Leave vision_merge out for this model.",
        )
    require_seams(siglip_seams(layers[0]))
    require_uncompiled_tower(tower, layers)
    if config.vision_feature_layer not in (-1, len(layers)):
        raise PatchError(
            "vision_feature_layer",
            expected="-1, the last hidden state, which has a token at every place",
            got=config.vision_feature_layer,
            fix="Leave vision_merge out for this model.",
        )
    attention = tower.config._attn_implementation
    if merge.attention == "proportional" and attention not in _MASKED_ATTENTION:
        raise PatchError(
            "attention implementation of the vision tower",
            expected=f"one of {', '.join(_MASKED_ATTENTION)}, which take the sizes of tokens",
            got=attention,
            fix="Set one of them, or merge with attention: plain.",
        )
    patches = (tower.config.image_size // tower.config.patch_size) ** 2
    merge.token_counts(patches, len(layers))
    return layers
