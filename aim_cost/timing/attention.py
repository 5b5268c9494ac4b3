"""The laws of fused self-attention: blocks of queries in waves over the multiprocessors."""

import numpy as np

from aim_cost.timing.form import Array, Ceilings, Form, Parameter, sigmoid, soft_max, waves

_QUERIES = 128.0  # queries of a block; 192 where the head is narrower, as flash attention has it
_NARROW_QUERIES = 192.0
_WIDE_HEAD = 96.0
_ROUND_KEYS = 100.0  # unit of the overhead of a block, in keys


def _padded_head(head_dim: Array) -> Array:
    """Kernels exist for heads of 64, 96, 128, 192 and 256 elements; others are padded."""
    sizes = np.array([64.0, 96.0, 128.0, 192.0, 256.0])
    place = np.minimum(np.searchsorted(sizes, head_dim), len(sizes) - 1)
    padded: Array = np.maximum(sizes[place], head_dim)
    return padded


def _elements(dims: tuple[Array, ...]) -> Array:
    tokens, batch, heads, key_value_heads, head_dim = dims
    return batch * tokens * head_dim * 2 * (heads + key_value_heads)


def _law(causal: bool, parameters: Array, ceilings: Ceilings, dims: tuple[Array, ...]) -> Array:
    """Blocks of queries times keys, joined with memory time. Every term grows with tokens."""
    tokens, batch, heads, _, head_dim = dims
    (
        compute,
        small_64,
        small_96,
        memory,
        start,
        block_start,
        whole,
        balance,
        sharp,
        keys,
        padding,
    ) = parameters
    whole, padding = sigmoid(whole), sigmoid(padding)
    padded = _padded_head(head_dim)
    queries = np.where(padded > _WIDE_HEAD, _QUERIES, _NARROW_QUERIES)
    blocks = np.ceil(tokens / queries)
    even = padding * blocks + (1 - padding) * tokens / queries
    share = batch * heads / ceilings.multiprocessors
    narrow = np.where(padded <= 64, small_64, np.where(padded <= 96, small_96, 0.0))
    rate = ceilings.flops_per_s / ceilings.multiprocessors * np.exp(compute + narrow)
    key_s = 4 * queries * padded / rate  # a block of queries with one key
    overhead = np.exp(keys) * _ROUND_KEYS
    rounds = waves(share * blocks, share * even, whole)
    if causal:  # blocks differ in length; the longest is a floor
        spread_s = share * even * ((tokens + queries) / 2 + overhead) * key_s
        compute_s = soft_max(spread_s, (tokens + overhead) * key_s, 1 + np.exp(balance))
    else:
        compute_s = rounds * (tokens + overhead) * key_s
    compute_s = compute_s + np.exp(block_start) * 1e-6 * rounds
    memory_s = _elements(dims) / (ceilings.elements_per_s * np.exp(memory))
    time: Array = soft_max(compute_s, memory_s, 1 + np.exp(sharp)) + np.exp(start) * 1e-6
    return time


def _roofline(causal: bool, ceilings: Ceilings, dims: tuple[Array, ...]) -> Array:
    tokens, batch, heads, _, head_dim = dims
    pairs = tokens * (tokens + 1) / 2 if causal else tokens * tokens
    flops: Array = 4 * batch * heads * pairs * head_dim
    return np.maximum(flops / ceilings.flops_per_s, _elements(dims) / ceilings.elements_per_s)


def _coordinates(dims: tuple[Array, ...]) -> tuple[Array, ...]:
    _, batch, heads, key_value_heads, head_dim = dims
    return np.log2(batch * heads), np.log2(heads / key_value_heads), np.log2(head_dim)


def _form(causal: bool, knots: tuple[tuple[float, ...], ...]) -> Form:
    return Form(
        op="causal_attention" if causal else "encoder_attention",
        dims=("tokens", "batch", "heads", "key_value_heads", "head_dim"),
        parameters=(
            Parameter("log_compute_efficiency", np.log(0.7), 0.1),
            Parameter("log_ratio_head_64", -0.1),
            Parameter("log_ratio_head_96", -0.1),
            Parameter("log_bandwidth_efficiency", -0.3, 0.1),
            Parameter("log_start_us", np.log(8.0), 0.1),
            Parameter("log_block_start_us", -1.0),
            Parameter("logit_whole_waves", 0.0),
            Parameter("log_balance", 0.5),
            Parameter("log_sharpness", 0.0),
            Parameter("log_block_overhead_100_keys", 0.0),
            Parameter("logit_padding", 0.0),
        ),
        law=lambda parameters, ceilings, dims: _law(causal, parameters, ceilings, dims),
        roofline=lambda ceilings, dims: _roofline(causal, ceilings, dims),
        coordinates=_coordinates,
        knots=knots,
    )


CAUSAL_ATTENTION = _form(
    True, ((0, 4, 6, 7, 8, 9, 10, 11, 12, 14), (0, 2, 4, 6, 8, 10, 13), (0, 2, 6), (6, 7))
)
ENCODER_ATTENTION = _form(
    False,
    (
        (0, 4, 6, 7, 8, 9, 10, 11, 12, 14, 16),
        (0, 2, 4, 6, 8, 11),
        (0, 1),
        (6, float(np.log2(72)), float(np.log2(80))),
    ),
)
