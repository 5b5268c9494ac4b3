"""An unpatched model whose forward is the mask-based reference: what ``generate`` should do.

``generate`` of transformers runs on it with the caller's own prompt, unchanged. So whatever looks
at a prompt, a limit, a processor, a criterion, looks at the caller's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

Next = Callable[[Tensor], Tensor]
"""Logits [V] of the token after a prompt and the new tokens [n] after it."""


@contextmanager
def answering(model: PreTrainedModel, prompt_tokens: int, rows: Sequence[Next]) -> Iterator[None]:
    """Let ``model`` answer the prompts of a batch, one of ``rows`` each, and text as it does.

    Several sequences of a prompt are neighbours. Each step starts from the prompt: no cache.
    """
    stock = model.forward
    placeholders = [
        getattr(model.config, name)
        for name in ("image_token_id", "video_token_id")
        if hasattr(model.config, name)
    ]

    def forward(
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> Any:
        if not bool(torch.isin(input_ids, torch.tensor(placeholders)).any()):
            return stock(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        copies = len(input_ids) // len(rows)
        logits = [
            rows[number // copies](ids[prompt_tokens:]) for number, ids in enumerate(input_ids)
        ]
        return CausalLMOutputWithPast(logits=torch.stack(logits)[:, None])

    model.forward, before = forward, model.generation_config.use_cache
    model.generation_config.use_cache = False
    try:
        yield
    finally:
        del model.forward
        model.generation_config.use_cache = before
