"""Heads of queries and keys, and the rotary embedding of their positions."""

from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import rotate_half
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from aim_runtime.models.part import Part


def split_heads(projected: Tensor, head_dim: int) -> Tensor:
    """[B, n, heads * d] -> [B, heads, n, d]."""
    parts: Tensor = projected.unflatten(-1, (-1, head_dim))
    return parts.transpose(1, 2)


def query_heads(attention: Part, x: Tensor) -> Tensor:
    """Queries [B, heads, n, d] of x[B, n, H], before the rotary embedding."""
    return _normed(attention, "q_norm", split_heads(attention.q_proj(x), attention.head_dim))


def key_heads(attention: Part, x: Tensor) -> Tensor:
    """Keys [B, kv_heads, n, d] of x[B, n, H], before the rotary embedding."""
    return _normed(attention, "k_norm", split_heads(attention.k_proj(x), attention.head_dim))


def _normed(attention: Part, name: str, heads: Tensor) -> Tensor:
    """``heads``, each normed where the attention does so, as Qwen3's."""
    norm = getattr(attention, name, None)
    normed: Tensor = heads if norm is None else norm(heads)
    return normed


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x[B, heads, n, d] turned by the angles of its positions, cos and sin[B or 1, n, d]."""
    turned: Tensor = rotate_half(x)
    return x * cos[:, None] + turned * sin[:, None]


def rotated_patches(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys [n, heads, d] turned in float32, as Qwen's towers do; cos and sin[n, d]."""
    turned: tuple[Tensor, Tensor] = apply_rotary_pos_emb_vision(query, key, cos, sin)
    return turned
