"""What a KV cache already holds before a call."""

from dataclasses import dataclass

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
        padding: [B] of each layer, where rows differ.
        last_position: [B or 1, 1], of the prompt's last token.
        highest_position: [B or 1, 1], of any token; on three axes a video may go beyond the text
            after it.
    """

    prompt: Prompt
    padding: list[Tensor]
    last_position: Tensor
    highest_position: Tensor

    @property
    def deltas(self) -> Tensor:
        """How far positions after the prompt are ahead of its tokens, [B, 1].

        So Qwen2-VL counts them: ``rope_deltas``.
        """
        prompt = self.prompt
        before = prompt.padding if prompt.cut is None else prompt.cut.padding
        padding = torch.zeros(1, 1) if before is None else before[:, None]
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
        expected="an empty cache, or text alone after a prompt that this patch has cached",
        got=f"new tokens after {cached} cached ones",
        fix="Give each prompt, with its images and videos, in one prefill.",
    )
