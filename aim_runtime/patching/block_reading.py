"""BlockReading: remembers queries and keys of the last block of the tower of Qwen2-VL or 2.5-VL."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import require_uncompiled_blocks, uncompiled
from aim_runtime.models.part import Part
from aim_runtime.models.rotary import rotated_patches
from aim_runtime.patching.undo import Changes
from aim_runtime.seams import named, require_seams, tower_block_seams
from aim_runtime.selection.tower import TowerAttention


class _Run(threading.local):
    """One run of the tower in this thread.

    projected: [patches, 3 * heads * d]; arguments: of the block's attention, by name; windows:
    int64 [tokens], the token that stands at each place inside the tower, None where all do.
    """

    projected: Tensor | None = None
    arguments: dict[str, Any] | None = None
    windows: Tensor | None = None


class BlockReading:
    """Reads the last block, in which a temporal patch attends to itself alone.

    Raises: PatchError for a tower whose last block attends within windows.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter, self._run, self._tower = adapter, _Run(), adapter.tower
        blocks, full = self._tower.blocks, getattr(self._tower, "fullatt_block_indexes", None)
        if full is not None and len(blocks) - 1 not in full:
            raise PatchError(
                "schedule.select",
                expected="a tower whose last block attends to whole frames, for this score",
                got=f"fullatt_block_indexes {list(full)} of {len(blocks)} blocks",
                fix="Select by another score.",
            )
        self._windows = full is not None
        self._attention: Part = blocks[-1].attn
        require_seams(tower_block_seams(self._tower, blocks[-1], windows=self._windows))
        require_uncompiled_blocks(self._tower, blocks)

    def attach(self, changes: Changes) -> None:
        """Watch the block, and the order in which windows make patches enter the blocks.

        The tower runs as written.
        """
        changes.replace(self._tower, "forward", uncompiled(self._tower.forward))
        changes.hook(self._attention.qkv.register_forward_hook, self._see_projected)
        changes.hook(self._attention.register_forward_pre_hook, self._see_arguments)
        if self._windows:
            name = "permute_input_for_window_attn"
            changes.replace(self._tower, name, self._seeing(getattr(self._tower, name)))

    def take(self, modality: str) -> TowerAttention:
        """What the last run of the tower in this thread has left; it is forgotten."""
        run, attention = self._run, self._attention
        projected, arguments, windows = run.projected, run.arguments, run.windows
        assert projected is not None and arguments is not None
        run.projected = run.arguments = run.windows = None
        query, key, _ = projected.unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
        query, key = rotated_patches(query, key, *arguments["position_embeddings"])
        if windows is not None:  # back in the order of the tokens, as the features are
            back, square = windows.argsort(), len(query) // len(windows)
            query, key = (x.unflatten(0, (-1, square))[back].flatten(0, 1) for x in (query, key))
        patches = arguments["cu_seqlens"].diff().tolist()
        return TowerAttention(
            query.split(patches),
            key.split(patches),
            attention.scaling,
            class_tokens=0,
            pooled=partial(self._adapter.pooled, modality=modality),
        )

    def _see_projected(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        self._run.projected = output

    def _see_arguments(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._run.arguments = named(module, args, kwargs)

    def _seeing(self, permute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def permuted(input_tensor: Tensor, window_index: Tensor, seq_len: int) -> Tensor:
            self._run.windows = window_index
            return permute(input_tensor, window_index, seq_len)

        return permuted
