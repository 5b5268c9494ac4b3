"""What a KV cache already holds before a call."""

from dataclasses import dataclass

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
        padding: [B] of each layer, where rows differ.
        deltas: [B, 1], as in ``Axes``.
    """

    prompt: Prompt
    padding: list[Tensor]
    deltas: Tensor | None


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
        expected="an empty cache, or text alone after a prompt that this patch has cached",
        got=f"new tokens after {cached} cached ones",
        fix="Give each prompt, with its images and videos, in one prefill.",
    )
