"""LayerReading: remembers queries and keys of the SigLIP or CLIP layer whose output is read."""

import threading
from functools import partial
from typing import Any

from torch import Tensor, nn

from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import require_uncompiled_tower, uncompiled
from aim_runtime.models.part import Part
from aim_runtime.patching.undo import Changes
from aim_runtime.seams import require_seams, tower_attention_seams
from aim_runtime.selection.tower import TowerAttention


class _Run(threading.local):
    """One run of the tower in this thread: queries and keys [views, n, heads * d]."""

    query: Tensor | None = None
    key: Tensor | None = None


class LayerReading:
    """Reads the attention of a SigLIP or CLIP tower. Raises: PatchError for another."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self._run, self._tower = adapter, _Run(), adapter.tower
        self._attention = _read_layer(adapter).self_attn

    def attach(self, changes: Changes) -> None:
        """Watch the projections of the layer, of a tower that runs as written."""
        changes.replace(self._tower, "forward", uncompiled(self._tower.forward))
        changes.hook(self._attention.q_proj.register_forward_hook, self._see_query)
        changes.hook(self._attention.k_proj.register_forward_hook, self._see_key)

    def take(self, modality: str) -> TowerAttention:
        """What the last run of the tower in this thread has left; it is forgotten."""
        query, key = self._run.query, self._run.key
        assert query is not None and key is not None
        self._run.query = self._run.key = None
        heads = self._attention.num_heads
        return TowerAttention(
            query.unflatten(-1, (heads, -1)).unbind(),
            key.unflatten(-1, (heads, -1)).unbind(),
            self._attention.scale,
            self._adapter.class_tokens,
            partial(self._adapter.pooled, modality=modality),
        )

    def _see_query(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        self._run.query = output

    def _see_key(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        self._run.key = output


def _read_layer(adapter: Adapter) -> Part:
    """The layer of the tower whose output becomes features."""
    tower, number = adapter.tower, getattr(adapter.config, "vision_feature_layer", None)
    layers = [module for module in tower.modules() if hasattr(module, "self_attn")]
    if not layers or not isinstance(number, int) or number == 0:
        raise PatchError(
            "schedule.select",
            expected="a SigLIP or CLIP tower of which one layer is read, for this score",
            got=f"{type(tower).__name__}, vision_feature_layer {number}",
            fix="Select by another score.",
        )
    layer: Part = layers[number - 1 if number > 0 else len(layers) + number]
    require_seams(tower_attention_seams(layer))
    require_uncompiled_tower(tower, layers)
    return layer
