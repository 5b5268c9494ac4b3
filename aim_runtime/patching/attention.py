"""Attention functions for transformers' registry: the stock ones, observed during a prefill.

The registry is the one seam that shows q and k after the rotary embedding. The prefill in progress
arrives as the keyword ``aim_prefill``, passed down by the decoder layer; without it, as in decode,
they are the stock functions. ``aim_padding`` [B] comes with layers whose rows have padding of their
own, ``aim_left`` with those that tokens may have left.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

from aim_runtime.models.part import Part
from aim_runtime.patching.prefill import Prefill
from aim_runtime.reduction.uneven import padded_mask

Attention = Callable[..., tuple[Tensor, Tensor | None]]

_STOCK: dict[str, tuple[Attention, Callable[..., Any]]] = {
    "sdpa": (sdpa_attention_forward, sdpa_mask),
    "eager": (eager_attention_forward, eager_mask),
}
SUPPORTED_ATTENTION = tuple(_STOCK)


def observed_name(implementation: str) -> str:
    """The registered name of the observed form of a stock implementation."""
    return f"aim_{implementation}"


def _observed(stock: Attention) -> Attention:
    def attention(
        module: Part,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float,
        aim_prefill: Prefill | None = None,
        aim_padding: Tensor | None = None,
        aim_left: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if aim_padding is not None:
            attention_mask = padded_mask(aim_padding, query.shape[2], key.shape[2])
            if stock is eager_attention_forward:  # which adds its mask
                least = torch.finfo(query.dtype).min
                attention_mask = torch.where(attention_mask, 0.0, least).to(query.dtype)
        elif aim_left and attention_mask is not None and attention_mask.shape[-1] != key.shape[2]:
            attention_mask = _for_those_left(attention_mask, query.shape[2], key.shape[2])
        output = stock(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        if aim_prefill is not None:
            aim_prefill.observe_attention(module.layer_idx, query, key, scaling)
        return output

    return attention


def _for_those_left(mask: Tensor, queries: int, keys: int) -> Tensor:
    """Cut the mask[..., N, M] of all tokens to a layer that has dropped some of them.

    Those left keep their order, and padding stands before them in every layer. So in a prefill a
    corner of the mask is right; after a cached prompt, which is all visible but for its padding,
    the columns of the new tokens are the last ones.
    """
    cached = keys - queries
    if not cached:
        return mask[..., :queries, :keys]
    return torch.cat([mask[..., :cached], mask[..., mask.shape[-1] - queries :]], dim=-1)


for _name, (_stock, _mask) in _STOCK.items():
    AttentionInterface.register(observed_name(_name), _observed(_stock))
    # without a mask function of the same name, transformers would ignore padding silently
    AttentionMaskInterface.register(observed_name(_name), _mask)
