"""Drafts under a patch: candidates come after the prefill, and hold no placeholders."""

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

import torch
from torch import Tensor


class TextCandidates:
    """A candidate generator of transformers, cut to what may stand after a cached prompt.

    Args: placeholders, token ids of images and videos: after a prompt they have no pixels.
    In the first round transformers would put candidates into the prefill itself, where they would
    take part in scoring the prompt.
    """

    def __init__(self, stock: Any, placeholders: Collection[int]) -> None:
        self._stock = stock
        self._placeholders = torch.tensor(sorted(placeholders), dtype=torch.int64, device="cpu")
        self._prefilled = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def get_candidates(self, input_ids: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """``input_ids`` [1, n] with candidates after them: [1, n + candidates]."""
        candidates, logits = self._stock.get_candidates(input_ids, **kwargs)
        if not self._prefilled:  # an assistant has read the prompt; what it says comes too early
            self._prefilled = True
            return input_ids, None
        start = input_ids.shape[1]
        new = torch.isin(candidates[0, start:].cpu(), self._placeholders)
        length = int(new.int().argmax()) if bool(new.any()) else len(new)
        return candidates[:, : start + length], None if logits is None else logits[:, :length]


def after_the_prompt(
    make: Callable[..., Any], placeholders: Collection[int]
) -> Callable[..., TextCandidates]:
    """A model's ``_get_candidate_generator`` whose generators are ``TextCandidates``."""

    @wraps(make)
    def make_text_candidates(*args: Any, **kwargs: Any) -> TextCandidates:
        return TextCandidates(make(*args, **kwargs), placeholders)

    return make_text_candidates
