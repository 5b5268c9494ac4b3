"""Which code computes the importance score: Triton kernels on a GPU, torch everywhere else.

AIM_IMPORTANCE_KERNEL=torch or =triton in the environment chooses by hand; the default is auto.
"""

import functools
import os
import warnings

import torch
from torch import Tensor

from aim_runtime.errors import PatchError
from aim_runtime.reduction.importance import pagerank_importance

IMPORTANCE_KERNELS = ("auto", "torch", "triton")
IMPORTANCE_VARIABLE = "AIM_IMPORTANCE_KERNEL"


def token_importance(
    query: Tensor, key: Tensor, *, scaling: float, padding: Tensor | None = None
) -> Tensor:
    """``pagerank_importance`` by the kernel that ``importance_kernel`` names.

    Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], padding[B] int64
        -> [B, n] fp32 on the same device.
    Raises: PatchError, as ``importance_kernel``.
    """
    if importance_kernel(query.device) == "torch":
        return pagerank_importance(query, key, scaling=scaling, padding=padding)
    from aim_runtime.reduction.importance_triton import fused_importance

    return fused_importance(query, key, scaling=scaling, padding=padding)


def importance_kernel(device: torch.device) -> str:
    """``torch`` or ``triton``: what scores tokens on ``device``.

    ``auto`` takes triton on a CUDA device where it builds kernels; where it should but cannot, it
    warns and takes torch. Raises: PatchError for a name that is not one of ``IMPORTANCE_KERNELS``.
    """
    asked = os.environ.get(IMPORTANCE_VARIABLE, "auto")
    if asked not in IMPORTANCE_KERNELS:
        raise PatchError(
            IMPORTANCE_VARIABLE,
            expected=f"one of {', '.join(IMPORTANCE_KERNELS)}",
            got=asked,
            fix="Correct the variable, or unset it.",
        )
    if asked != "auto":
        return asked
    return "triton" if device.type == "cuda" and _builds(device) else "torch"


def scoring(device: torch.device) -> str:
    """The ``scoring`` of an Execution that ``importance_kernel`` stands for: torch or fused."""
    return {"torch": "torch", "triton": "fused"}[importance_kernel(device)]


@functools.cache
def _builds(device: torch.device) -> bool:
    """Whether a small score runs: it needs triton, a compiler and a GPU that triton knows."""
    try:
        from aim_runtime.reduction.importance_triton import fused_importance

        x = torch.zeros(1, 1, 1, 16, device=device, dtype=torch.float16)
        fused_importance(x, x, scaling=1.0)
    except Exception as error:  # triton, its compiler and the driver raise errors of many kinds
        warnings.warn(
            f"Triton builds no kernels for {device} ({_line(error)}): importance is computed by "
            f"torch, slower. {IMPORTANCE_VARIABLE}=torch chooses that without a warning.",
            stacklevel=2,
        )
        return False
    return True


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
