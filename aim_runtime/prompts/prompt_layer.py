"""PromptLayer: a layer of a KV cache that holds a prompt which a patch has reduced."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from aim_runtime.errors import PatchError
from aim_runtime.prompts.cached import Cached
from aim_runtime.seams import CACHE


class PromptLayer(DynamicLayer):
    """Keys and values of a layer, and what new tokens after them have to know.

    It is an ordinary layer for everything that transformers does with a cache: copies, pickles,
    beams, other rows, ``crop`` of what came after the prompt. Keys and values are added only while
    a patched model runs: another would give the new tokens wrong positions or a wrong mask.

    Args:
        layer: takes over its keys and values.
        cached: the prompt, as all layers of the cache hold it.
        number: of this layer in the cache.
        ids: int64 [B, n], the caller's ids of all that is cached, -1 where they are not known; in
            the first layer alone.
    """

    def __init__(
        self, layer: DynamicLayer, cached: Cached, number: int, ids: Tensor | None = None
    ) -> None:
        super().__init__()
        vars(self).update(vars(layer))
        self.cached: Cached | None = cached
        self.ids = ids
        self._number = number
        self._rows: Tensor | None = None  # of the prompt's, once they are others than at first
        self._is_open = False

    @property
    def prompt(self) -> Cached | None:
        """The prompt with a row for each row of this layer; None after ``reset``."""
        if self.cached is None or self._rows is None:
            return self.cached
        return self.cached.take(self._rows.tolist())

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let keys and values be added while the body runs."""
        before, self._is_open = self._is_open, True
        try:
            yield
        finally:
            self._is_open = before

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, heads, n, d]. Raises: PatchError outside a patched model."""
        if self.cached is not None and not self._is_open:
            raise PatchError(
                CACHE,
                expected="a cache of the model as it runs now",
                got="one of a prompt that a schedule reduced inside a patched block",
                fix="Go on inside a block, with patched(model, schedule), of any schedule; or give "
                "the whole prompt again.",
            )
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return keys, values

    def extend(self, ids: Tensor) -> None:
        """Know the ids [B, n] of the tokens that were added."""
        if self.ids is not None:
            self.ids = torch.cat([self.ids, ids.to(self.ids)], dim=1)

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = self.cached = self.ids = self._rows = None
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows ``beam_idx`` [B], in that order."""
        super().reorder_cache(beam_idx)
        self._take(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``, in that order."""
        super().batch_select_indices(indices)
        self._take(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        rows = 0 if self.keys is None else len(self.keys)
        super().batch_repeat_interleave(repeats)
        self._take(torch.arange(rows, device="cpu").repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Remove so many tokens at the end; a positive number is what older releases keep.

        Raises: PatchError where that takes tokens of the prompt, which every layer reduced in its
        own way.
        """
        if self.cached is None or not tokens_to_remove:
            super().crop(tokens_to_remove)
            return
        new = self.get_seq_length() - self.cached.lengths[self._number]
        remove = -tokens_to_remove
        if tokens_to_remove > 0:  # to keep, counted in the first layer
            remove = self.cached.lengths[0] + new - tokens_to_remove
        if remove > new or remove < 0:
            raise PatchError(
                f"{CACHE}.crop",
                expected=f"at most the {new} tokens after the prompt to be removed: of the prompt "
                f"the cache holds {self.cached.lengths[0]} tokens",
                got=f"crop({tokens_to_remove})",
                fix=f"crop({-new}) leaves the prompt alone; for another prompt start a new cache."
                if new
                else "Start a new cache for another prompt.",
            )
        if not remove:
            return
        super().crop(-remove)
        if self.ids is not None:
            self.ids = self.ids[:, :-remove]

    def _take(self, index: Tensor) -> None:
        if self.cached is None:
            return
        rows = self._rows
        if rows is None:
            rows = torch.arange(self.cached.rows, device="cpu")
        self._rows = rows[index.to(rows.device)]
        if self.ids is not None:
            self.ids = self.ids[index.to(self.ids.device)]


def first_layer(cache: object) -> PromptLayer | None:
    """The first layer of a cache that holds a reduced prompt; None for other caches."""
    if not isinstance(cache, DynamicCache) or not cache.layers:
        return None
    layer = cache.layers[0]
    return layer if isinstance(layer, PromptLayer) and layer.cached is not None else None
