"""What a KV cache has to be before a call."""

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from aim_runtime.errors import PatchError
from aim_runtime.models.inputs import Inputs
from aim_runtime.prompts.cached import Cached
from aim_runtime.prompts.prompt_layer import PromptLayer
from aim_runtime.seams import CACHE, cache_in


def cached_tokens(inputs: Inputs) -> int:
    """Tokens in the first layer of the cache. Raises: PatchError for caches of other kinds."""
    cache = cache_in(inputs)
    if cache is None:
        return 0
    others = _other_layers(cache) if isinstance(cache, DynamicCache) else None
    if others != "":
        raise PatchError(
            CACHE,
            expected="a DynamicCache of ordinary layers, which may differ in length",
            got=type(cache).__name__ + (f" of {others}" if others else ""),
            fix=f"Leave cache_implementation and {CACHE} out.",
        )
    tokens: int = cache.get_seq_length()
    return tokens


def _other_layers(cache: DynamicCache) -> str:
    """The kinds of a cache's layers that do not just keep what they are given; "" without any."""
    kinds = {type(layer) for layer in cache.layers}
    if cache.layer_class_to_replicate is not None:  # of layers that it has not made yet
        kinds.add(cache.layer_class_to_replicate)
    return ", ".join(sorted(kind.__name__ for kind in kinds - {DynamicLayer, PromptLayer}))


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
