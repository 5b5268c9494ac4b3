"""Symbols to build ops from, for closed forms: ``layer_ops(TEXT, B, n, n, "sdpa", 2)``."""

from types import SimpleNamespace

import sympy


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, integer=True, positive=True)


B, n, F, t = (_symbol(name) for name in ("B", "n", "F", "t"))
"""Prompts; tokens entering a layer; frames or crops; tokens of a frame before a merging pass."""

_heads, _key_value_heads, _head_dim = _symbol("h"), _symbol("h_kv"), _symbol("d")

TEXT = SimpleNamespace(
    hidden_size=_symbol("H"),
    intermediate_size=_symbol("I"),
    num_attention_heads=_heads,
    num_key_value_heads=_key_value_heads,
    head_dim=_head_dim,
    query_dim=_heads * _head_dim,
    key_value_dim=_key_value_heads * _head_dim,
    vocab_size=_symbol("V"),
    has_qkv_bias=True,
    has_output_bias=False,
    has_mlp_bias=False,
    has_head_norms=False,  # which count no FLOPs
)
"""A decoder whose dims are symbols; same attributes as TextSpec."""
