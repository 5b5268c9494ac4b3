"""What a KV cache already holds before a call."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from aim_runtime.errors import PatchError
from aim_runtime.models.inputs import Inputs
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.seams import CACHE, cache_in


@dataclass(frozen=True)
class Cached:
    """A prompt in a KV cache.

    Args:
        lengths: tokens that each layer holds of it.
        padding: [B] of each layer, where rows differ.
        keeps_positions: whether merging left tokens the positions that they had.
        needs_patch: whether only a patched model goes on from it as it should.
        last_position: [B or 1, 1], of the prompt's last token.
        highest_position: [B or 1, 1], of any token; on three axes a video may go beyond the text
            after it.
    """

    prompt: Prompt
    lengths: tuple[int, ...]
    padding: list[Tensor]
    keeps_positions: bool
    needs_patch: bool
    last_position: Tensor
    highest_position: Tensor

    def take(self, rows: Sequence[int]) -> "Cached":
        """Some of its rows, in this order; a row may come several times."""

        def taken(x: Tensor) -> Tensor:
            return x if len(x) == 1 else x[torch.tensor(rows, device=x.device)]

        return replace(
            self,
            prompt=self.prompt.take(rows),
            padding=[taken(one) for one in self.padding],
            last_position=taken(self.last_position),
            highest_position=taken(self.highest_position),
        )

    @property
    def deltas(self) -> Tensor:
        """How far positions after the prompt are ahead of its tokens, [B, 1].

        So Qwen2-VL counts them: ``rope_deltas``.
        """
        prompt = self.prompt
        before = prompt.caller_padding
        padding = torch.zeros(1, 1, device="cpu") if before is None else before[:, None]
        return (
            self.highest_position + 1 - (prompt.caller_tokens - padding).to(self.highest_position)
        )


def cached_tokens(inputs: Inputs) -> int:
    """Tokens in the first layer of the cache. Raises: PatchError for caches of fixed size."""
    cache = cache_in(inputs)
    if cache is None:
        return 0
    if not isinstance(cache, DynamicCache):
        raise PatchError(
            CACHE,
            expected="a DynamicCache, whose layers may differ in length",
            got=type(cache).__name__,
            fix=f"Leave cache_implementation and {CACHE} out.",
        )
    return cache.get_seq_length()


def require_empty_cache(inputs: Inputs) -> None:
    """Raises: PatchError when something is cached."""
    cached = cached_tokens(inputs)
    if cached:
        raise unknown_cache(cached)


def unknown_cache(cached: int) -> PatchError:
    """The error for new tokens after ``cached`` ones that this patch knows nothing about."""
    return PatchError(
        CACHE,
        expected="an empty cache, or text alone after a prompt that a patched model has cached",
        got=f"new tokens after {cached} cached ones of which nothing is known",
        fix="Give each prompt, with its images and videos, in one prefill.",
    )


def require_layers(cached: Cached, layers: int) -> None:
    """Raises: PatchError for a prompt that a model of another number of layers has cached."""
    if len(cached.lengths) != layers:
        raise PatchError(
            CACHE,
            expected=f"a cache of this model, of {layers} layers",
            got=f"one of {len(cached.lengths)} layers",
            fix="Give each model its own cache.",
        )
