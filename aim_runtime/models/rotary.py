"""Heads of a projection, and the rotary embedding of their positions."""

from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import rotate_half
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision


def split_heads(projected: Tensor, head_dim: int) -> Tensor:
    """[B, n, heads * d] -> [B, heads, n, d]."""
    parts: Tensor = projected.unflatten(-1, (-1, head_dim))
    return parts.transpose(1, 2)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x[B, heads, n, d] turned by the angles of its positions, cos and sin[B or 1, n, d]."""
    turned: Tensor = rotate_half(x)
    return x * cos[:, None] + turned * sin[:, None]


def rotated_patches(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys [n, heads, d] turned in float32, as Qwen's towers do; cos and sin[n, d]."""
    turned: tuple[Tensor, Tensor] = apply_rotary_pos_emb_vision(query, key, cos, sin)
    return turned
