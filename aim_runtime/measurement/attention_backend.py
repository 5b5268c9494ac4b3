"""Which kernels compute the attention: a choice of torch that measurements must name.

torch 2.11 takes cuDNN first on Hopper. cuDNN builds a plan for every new shape, some tenths of a
second each, and its rate differs from flash's; so a row without its backend says too little.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from aim_cost.models.text_spec import TextSpec
from aim_runtime.errors import MeasurementError

_TOKENS = 256  # of the attention that torch is asked about; the choice does not depend on it


class AttentionBackend(StrEnum):
    """The implementations of ``torch.nn.functional.scaled_dot_product_attention``."""

    cudnn = "cudnn"
    flash = "flash"
    efficient = "efficient"
    math = "math"


_OF_TORCH = {
    AttentionBackend.cudnn: SDPBackend.CUDNN_ATTENTION,
    AttentionBackend.flash: SDPBackend.FLASH_ATTENTION,
    AttentionBackend.efficient: SDPBackend.EFFICIENT_ATTENTION,
    AttentionBackend.math: SDPBackend.MATH,
}


@contextmanager
def attention_backend(backend: AttentionBackend | None) -> Iterator[None]:
    """Inside the block torch takes ``backend`` and no other; None leaves the choice to torch.

    An attention that the backend cannot compute raises torch's RuntimeError.
    """
    if backend is None:
        yield
        return
    with sdpa_kernel([_OF_TORCH[backend]]):
        yield


@functools.lru_cache
def chosen_backend(text: TextSpec, device: torch.device, dtype: str) -> AttentionBackend:
    """The backend that torch takes by itself for the causal attention of a decoder on ``device``.

    Raises: MeasurementError where torch has none for these sizes.
    """
    kind = {"device": device, "dtype": getattr(torch, dtype)}
    query = torch.empty(1, text.num_attention_heads, _TOKENS, text.head_dim, **kind)
    key = torch.empty(1, text.num_key_value_heads, _TOKENS, text.head_dim, **kind)
    grouped = text.num_key_value_heads != text.num_attention_heads
    number = torch._fused_sdp_choice(query, key, key, None, 0.0, True, enable_gqa=grouped)
    for backend, known in _OF_TORCH.items():
        if known.value == number:
            return backend
    raise MeasurementError(
        "attention backend",
        expected=f"one of {', '.join(AttentionBackend)}",
        got=f"number {number} of torch",
        fix="Name one by --attention.",
    )
