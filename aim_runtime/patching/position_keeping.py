"""PositionKeeping: positions of the tokens that merging leaves, and of those after a prompt."""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache

from aim_cost.schedules.merge import Merge
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import uncompiled
from aim_runtime.models.inputs import Inputs
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.axes import Axes
from aim_runtime.prompts.cached import (
    Cached,
    cached_tokens,
    require_empty_cache,
    unknown_cache,
)
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.layout import Shortened
from aim_runtime.prompts.positions import (
    positions_behind,
    unmerged_places,
    unmerged_positions,
    with_positions,
)
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.seams import cache_in


class PositionKeeping:
    """Counts positions as ``merge`` says, on one axis or three, and knows the prompts in caches.

    Args: adapter, of a vision-language model; None for a bare language model.
    """

    def __init__(self, adapter: Adapter | None, merge: Merge | None) -> None:
        self._axes = Axes(adapter) if adapter is not None and adapter.has_axes else None
        self._merges = merge is not None
        self._keeps = self._axes is None and merge is not None and merge.positions == "kept"
        self._cached: WeakKeyDictionary[DynamicCache, Cached] = WeakKeyDictionary()

    @property
    def needs_places(self) -> bool:
        """Whether positions depend on which places merging leaves."""
        return self._keeps or (self._axes is not None and self._merges)

    def attach(self, changes: Changes) -> None:
        """Let the model compute positions of the prompt as it was before merging."""
        if self._axes is None:
            return
        inner = self._axes.inner
        changes.callback(setattr, inner, "rope_deltas", inner.rope_deltas)
        rope_index = uncompiled(self._axes.behind(inner.get_rope_index))
        changes.replace(inner, "get_rope_index", rope_index)

    def expect(self, prompt: Prompt, inputs: Inputs) -> None:
        """Prepare for a prompt whose positions the model is about to compute.

        Args: inputs, the caller's own. Raises: PatchError.
        """
        if self._axes is not None:
            self._axes.expect(prompt, inputs)

    def forget(self) -> None:
        """What was prepared serves no other prompt."""
        if self._axes is not None:
            self._axes.forget()

    def follow_up(self, inputs: Inputs) -> Prompt:
        """The prompt in the cache of ``inputs``, from which ``generate`` goes on.

        Raises: PatchError for a cache that is not known.
        """
        earlier = self.cached(inputs)
        if earlier is None:
            raise unknown_cache(cached_tokens(inputs))
        if self._axes is not None:
            self._axes.deltas = earlier.deltas
        return earlier.prompt

    def of_generation(self, short: Shortened) -> Inputs:
        """The inputs of ``generate``, with the positions from which it counts on.

        Those of visual tokens are set in the prefill, when they have been merged.
        """
        if not self._moves(short.prompt):
            return short.inputs
        prompt = short.prompt.padded(short.inputs.get("attention_mask"))
        positions = unmerged_positions(prompt, {})
        return short.inputs | {"position_ids": positions.to(short.inputs["input_ids"].device)}

    def of_prefill(
        self, inputs: Inputs, prompt: Prompt, encoded: Mapping[str, Encoded | None]
    ) -> Inputs:
        """A decoder's ``inputs`` with the positions of ``prompt``. Raises: PatchError."""
        if self._moves(prompt):
            positions = unmerged_positions(prompt, encoded)
            return with_positions(inputs, positions, text=~prompt.visual_mask)
        if self._axes is not None and any(prompt.lost):
            return self._axes.look_up(inputs, prompt, unmerged_places(prompt, encoded))
        return inputs

    def of_new_ids(self, inputs: Inputs) -> Inputs:
        """A vision-language model's ``inputs`` after a cached prompt, on three axes.

        Raises: PatchError for a cache that is not known, unless nothing is merged.
        """
        if self._axes is None or inputs.get("position_ids") is not None:
            return inputs
        cached = self.cached(inputs)
        if cached is None and self._merges:
            require_empty_cache(inputs)
        return self._axes.go_on(inputs, cached) if cached else inputs

    def of_new_tokens(self, inputs: Inputs, tokens: int, *, embedded: bool) -> Inputs:
        """A decoder's ``inputs`` of ``tokens`` new tokens after a cached prompt.

        Args: embedded, whether a mask tells the visual tokens, which it does in prefills alone.
        Raises: PatchError for a cache that is not known.
        """
        cached, counted = self.cached(inputs), inputs.get("position_ids") is not None
        if cached is None and self._keeps and not counted:
            require_empty_cache(inputs)
        if tokens > 1 and (cached is None or embedded):
            require_empty_cache(inputs)
        if cached is None or counted or not self._moves(cached.prompt):
            return inputs
        cache_tokens, x = cached_tokens(inputs), inputs.get("inputs_embeds")
        device = (inputs["input_ids"] if x is None else x).device
        lost = torch.tensor(cached.prompt.lost, device=device)[:, None]
        positions = positions_behind(cache_tokens, tokens, cached.prompt, lost)
        return inputs | {"position_ids": positions}

    def cached(self, inputs: Inputs) -> Cached | None:
        """The prompt in the cache of a call; None for one that is not known."""
        return self._cached.get(cache_in(inputs))

    def remember(self, cache: DynamicCache, prompt: Prompt, padding: list[Tensor]) -> None:
        """Know ``prompt``, now in ``cache``; ``padding`` [B] of each layer, where rows differ."""
        deltas = None if self._axes is None else self._axes.deltas_of(len(prompt.visual))
        self._cached[cache] = Cached(prompt, padding, deltas)

    def _moves(self, prompt: Prompt) -> bool:
        """Whether tokens have other positions than their places in the merged prompt."""
        return self._keeps and any(prompt.lost)
