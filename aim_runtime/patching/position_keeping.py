"""PositionKeeping: positions of the tokens that are left, and of those after a prompt."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import DynamicCache

from aim_cost.schedules.schedule import Schedule
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.inputs import Inputs
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.axes import AxesPositions
from aim_runtime.prompts.cache_checks import require_empty_cache
from aim_runtime.prompts.cached import Cached
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.layout import Shortened
from aim_runtime.prompts.positions import KeptPositions, Positions, RecountedPositions
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.prompts.prompt_layer import first_layer, hold_prompt, require_beginning
from aim_runtime.seams import cache_in, ids_in


class PositionKeeping:
    """Counts positions as a schedule says, on one axis or three, and knows the prompts in caches.

    Args: adapter, of a vision-language model; None for a bare language model.
    """

    def __init__(self, adapter: Adapter | None, schedule: Schedule) -> None:
        merge = schedule.merge
        self._shortens = schedule.shortens_prompts
        self._reduces = schedule != Schedule()
        self._keeps = merge is not None and merge.positions == "kept"
        self._axes = AxesPositions(adapter) if adapter is not None and adapter.has_axes else None
        self._kind: Positions | None = self._axes
        if self._axes is None and self._shortens:
            self._kind = KeptPositions() if self._keeps else RecountedPositions()

    def attach(self, changes: Changes) -> None:
        """Restore what a model with three axes keeps of the last prompt.

        Caches of reduced prompts know their own. Those of prompts that nothing reduced need it
        after the block too, so it stays.
        """
        if self._axes is not None and self._reduces:
            inner = self._axes.inner
            changes.callback(setattr, inner, "rope_deltas", inner.rope_deltas)

    def check(self, given: Inputs, prompt: Prompt) -> None:
        """Raises: PatchError for a caller's inputs from which no positions can be computed."""
        if self._kind is not None:
            self._kind.check(given, prompt)

    def of_prompt(self, given: Inputs, short: Shortened) -> tuple[Inputs, Tensor | None]:
        """The inputs of a shortened prompt, with its positions as far as they are known.

        Args: given, the caller's inputs.
        Returns: also a table of the caller's positions, for ``of_prefill``.
        Raises: PatchError.
        """
        if self._kind is None or short.prompt.cut is None:
            return short.inputs, None
        return self._kind.prepare(given, short.inputs, short.prompt)

    def of_prefill(
        self, inputs: Inputs, prompt: Prompt, encoded: Mapping[str, Encoded], table: Tensor | None
    ) -> Inputs:
        """A decoder's ``inputs`` with the positions of ``prompt``; ``table``: see ``of_prompt``."""
        if self._kind is None or prompt.cut is None:
            return inputs
        return self._kind.merged(inputs, prompt, encoded, table)

    def of_new_tokens(self, inputs: Inputs, tokens: int) -> Inputs:
        """A vision-language model's ``inputs`` of ``tokens`` new ones after a cached prompt.

        Raises: PatchError for a cache that is not known, unless nothing is merged; and for
        positions that do not go on from the prompt.
        """
        cached = self.cached(inputs)
        if cached is None:
            self._require_plain(inputs)
            return inputs
        # the cache's own, which another schedule may have made
        kind = self._axes or (KeptPositions() if cached.keeps_positions else RecountedPositions())
        return kind.after(inputs, cached, tokens)

    def go_on(self, inputs: Inputs) -> Inputs:
        """The inputs of ``generate`` after a cached prompt, with the positions on three axes.

        A model knows how far those of its last prompt went, which may be another.
        Raises: PatchError for a cache that is not known.
        """
        cached = self.cached(inputs)
        if cached is None:
            self._require_plain(inputs)
            return inputs
        ids = ids_in(inputs)
        if ids is None:
            return inputs
        require_beginning(cache_in(inputs), ids)
        if self._axes is None or inputs.get("position_ids") is not None:
            return inputs
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0) + cached.deltas.to(mask.device)
        return inputs | {"position_ids": positions.expand(3, -1, -1)}

    def _require_plain(self, inputs: Inputs) -> None:
        """Raises: PatchError unless a cache that is not known may be one of an ordinary prompt."""
        cache = cache_in(inputs)
        lengths = {cache.get_seq_length(layer) for layer in range(len(cache.layers))}
        if self._shortens or len(lengths) > 1:
            require_empty_cache(inputs)

    def lost_columns(self, inputs: Inputs) -> int:
        """The tokens of the caller's prompt beyond those that a cache holds of it."""
        cached = self.cached(inputs)
        return 0 if cached is None else cached.prompt.caller_tokens - cached.prompt.tokens

    def cached(self, inputs: Inputs) -> Cached | None:
        """The prompt in the cache of a call; None for one that is not known."""
        first = first_layer(cache_in(inputs))
        return None if first is None else first.prompt

    def remember(
        self, cache: DynamicCache, prompt: Prompt, padding: list[Tensor], positions: Tensor | None
    ) -> None:
        """Know ``prompt``, now in ``cache``.

        Args: padding, [B] of each layer, where rows differ; positions, those of the prompt as the
            decoder got them, [..., B, n].
        """
        lengths = tuple(cache.get_seq_length(layer) for layer in range(len(cache.layers)))
        reduced = any(prompt.lost) or set(lengths) != {prompt.tokens}
        last = highest = torch.full((1, 1), prompt.tokens - 1, device="cpu")
        if positions is not None:
            axes = positions[-3:] if positions.dim() == 3 else positions[None]
            last, highest = axes[0, :, -1:], axes.amax(dim=(0, 2))[:, None]
        cached = Cached(
            prompt,
            lengths,
            padding,
            keeps_positions=self._keeps,
            # without it, a model with three axes goes on after whichever prompt came last
            needs_patch=reduced or self._axes is not None,
            last_position=last,
            highest_position=highest,
        )
        hold_prompt(cache, cached)
