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
from aim_runtime.prompts.prompt import Prompt
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
    ``ids``: int64 [B, n] of all that is cached, as the caller has it, -1 where it is not known;
    None in all but the first layer, and where nobody saw ids. ``grows``: whether a patched model
    is adding to the layer.
    """

    ids: Tensor | None

    def __init__(self, layer: DynamicLayer, cached: Cached, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers' own
        vars(self).update(vars(layer))
        self.grows = False
        self.ids = _known_ids(cached.prompt) if number == 0 else None
        self._cached: Cached | None = cached  # with the rows of the prefill
        self._number = number
        self._rows: Tensor | None = None  # of the prefill's, where they are others
        self._prompt: Cached | None = cached  # with today's rows; None until somebody asks

    @property
    def prompt(self) -> Cached | None:
        """The prompt with a row for each row of this layer; None after ``reset``."""
        if self._prompt is None and self._cached is not None and self._rows is not None:
            self._prompt = self._cached.take(self._rows.tolist())
        return self._prompt

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, heads, n, d]. Raises: PatchError outside a patched model."""
        if self._cached is not None and self._cached.needs_patch and not self.grows:
            raise PatchError(
                CACHE,
                expected="a cache of the model as it runs now",
                got="one of a prompt that a schedule reduced inside a patched block",
                fix="Go on inside a block of this schedule, or of another that reduces prompts; or "
                "give the whole prompt again.",
            )
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return keys, values

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None
        self.ids = self._cached = self._prompt = self._rows = None
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows ``beam_idx`` [B], in that order."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]  # any tensor
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
        if self._cached is None or not tokens_to_remove:
            super().crop(tokens_to_remove)
            return
        new = self.get_seq_length() - self._cached.lengths[self._number]
        remove = -tokens_to_remove
        if tokens_to_remove > 0:  # to keep, counted in the first layer
            remove = self._cached.lengths[0] + new - tokens_to_remove
        if remove > new or remove < 0:
            raise PatchError(
                f"{CACHE}.crop",
                expected=f"at most the {new} tokens after the prompt to be removed: of the prompt "
                f"the cache holds {self._cached.lengths[0]} tokens",
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
        if self._cached is None:
            return
        rows = self._rows
        if rows is None:
            rows = torch.arange(len(self._cached.prompt.visual), device="cpu")
        self._rows, self._prompt = rows[index.to(rows.device)], None
        if self.ids is not None:
            self.ids = self.ids[index.to(self.ids.device)]


def hold_prompt(cache: DynamicCache, cached: Cached) -> None:
    """Let the layers of ``cache``, whose prefill has just ended, know their prompt."""
    cache.layers = [
        PromptLayer(layer, cached, number) if isinstance(layer, DynamicLayer) else layer
        for number, layer in enumerate(cache.layers)
    ]


def first_layer(cache: object) -> PromptLayer | None:
    """The first layer of a cache that knows its prompt; None for other caches."""
    layers = cache.layers if isinstance(cache, DynamicCache) else []
    first = layers[0] if layers else None
    return first if isinstance(first, PromptLayer) and first.prompt is not None else None


@contextmanager
def growing(cache: DynamicCache, ids: Tensor) -> Iterator[None]:
    """Let a cached prompt grow by the tokens ids[B, n] while the body runs."""
    layers = [layer for layer in cache.layers if isinstance(layer, PromptLayer)]
    for layer in layers:
        layer.grows = True
    try:
        yield
    finally:
        for layer in layers:
            layer.grows = False
    for layer in layers:
        if layer.ids is not None:
            layer.ids = torch.cat([layer.ids, ids.to(layer.ids)], dim=1)


def require_beginning(cache: DynamicCache, ids: Tensor) -> None:
    """Raises: PatchError unless a conversation ids[B, n] begins with what is cached."""
    first = first_layer(cache)
    if first is None or first.ids is None:
        return
    rows, copies = len(ids), len(first.ids) // len(ids)
    cached = first.ids[::copies] if copies and rows * copies == len(first.ids) else first.ids
    tokens = min(cached.shape[1], ids.shape[1])
    if len(cached) != rows:
        expected, got = f"{len(cached)} rows, as many as are cached", f"{rows}"
        fix = "Repeat or choose rows: cache.batch_repeat_interleave, cache.batch_select_indices."
    else:
        known = cached[:, :tokens]
        wrong = ((known != ids[:, :tokens].to(known)) & (known >= 0)).any(dim=0)
        if not bool(wrong.any()):
            return
        expected = f"a conversation that begins with the {cached.shape[1]} tokens that are cached"
        got = f"other tokens from place {int(wrong.int().argmax())} on"
        fix = (
            "Give the whole conversation. For another question about the same prompt, "
            "copy its cache first (copy.deepcopy), or crop it."
        )
    raise PatchError("input_ids", expected=expected, got=got, fix=fix)


def _known_ids(prompt: Prompt) -> Tensor | None:
    """The ids [B, N] of the caller's prompt, -1 at padding; None where they are not known."""
    if prompt.ids is None or prompt.caller_padding is None:
        return prompt.ids
    place = torch.arange(prompt.caller_tokens, device=prompt.ids.device)
    padding = prompt.caller_padding.to(prompt.ids.device)[:, None]
    return prompt.ids.masked_fill(place < padding, -1)
