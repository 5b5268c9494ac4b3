"""Matrix products and attention at the dims of a model, and at others around them."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from aim_cost.models.model import ModelSpec
from aim_cost.ops.kind import CausalAttention, EncoderAttention, Product
from aim_runtime.kernels.case import Case, Pool, Work
from aim_runtime.kernels.sizes import Sizes, every_other

_SPREAD_SHAPES = 12
_SPREAD_WIDTHS = (128, 4096)
# heads, key-value heads, head_dim of decoders and of vision towers other than the model's
DECODERS = ((8, 8, 64), (28, 4, 128), (12, 2, 128))
_TOWERS = ((12, 64), (16, 80), (16, 64))


def gemm_cases(spec: ModelSpec, sizes: Sizes, width: int) -> list[Case]:
    """Linear layers of the model, with a bias where it has one, and a dozen shapes around them."""
    text, vision = spec.text, spec.vision
    hidden, inner, key = text.hidden_size, text.intermediate_size, text.key_value_dim
    decoder = [(key, hidden, text.has_qkv_bias), (hidden, text.query_dim, False)]
    decoder += [(inner, hidden, False), (hidden, inner, False)]
    inside, mlp = vision.hidden_size, vision.intermediate_size
    tower = [(inside, inside), (mlp, inside), (inside, mlp), (hidden, inside), (hidden, hidden)]
    cases = [_linear(1, text.vocab_size, hidden, False, 0, width)]
    for tokens in sizes.tokens:
        cases += [_linear(tokens, *shape, tokens * inner, width) for shape in decoder]
    for images in sizes.images:
        rows = images * vision.tokens
        cases += [_linear(rows, n, k, True, rows * mlp, width) for n, k in tower]
        cases.append(_patch_embedding(spec, images, width))
    for n, k in _other_widths():
        cases += [_linear(m, n, k, False, m * n, width) for m in every_other(sizes.tokens)]
    return list({case.kind: case for case in cases}.values())


def attention_cases(spec: ModelSpec, sizes: Sizes, width: int) -> list[Case]:
    """Causal attention of decoders and full attention of vision towers, through transformers."""
    text, vision = spec.text, spec.vision
    heads = text.num_attention_heads, text.num_key_value_heads, text.head_dim
    cases = [_causal(tokens, *heads, width) for tokens in sizes.tokens]
    for other in DECODERS:
        cases += [_causal(tokens, *other, width) for tokens in every_other(sizes.tokens)]
    own = vision.num_attention_heads, vision.hidden_size // vision.num_attention_heads
    cases += [_encoder(vision.tokens, images, *own, width) for images in sizes.images]
    for other_heads in (own, *_TOWERS):
        for tokens in (vision.tokens // 4, vision.tokens // 2, vision.tokens):
            cases += [_encoder(tokens, images, *other_heads, width) for images in sizes.images[:2]]
    return list({case.kind: case for case in cases}.values())


def _other_widths() -> list[tuple[int, int]]:
    low, high = _SPREAD_WIDTHS
    draw = random.Random(0)
    wide = [8 * round(low / 8 * (high / low) ** draw.random()) for _ in range(2 * _SPREAD_SHAPES)]
    return list(zip(wide[::2], wide[1::2], strict=True))


def _linear(m: int, n: int, k: int, biased: bool, scratch: int, width: int) -> Case:
    def make(pool: Pool) -> Work:
        x, weight = pool.activations(m, k), pool.weights(n, k)
        bias = pool.weights(n) if biased else None
        return lambda: functional.linear(x, weight, bias)

    return _product(m, n, k, scratch, width, make)


def _patch_embedding(spec: ModelSpec, images: int, width: int) -> Case:
    """The product of patches and filters runs as a convolution."""
    vision = spec.vision
    channels, patch, size = vision.num_channels, vision.patch_size, spec.square_side

    def make(pool: Pool) -> Work:
        pixels = pool.activations(images, channels, size, size)
        filters = pool.weights(vision.hidden_size, channels, patch, patch)
        bias = pool.weights(vision.hidden_size)
        return lambda: functional.conv2d(pixels, filters, bias, stride=patch)

    m, n, k = images * vision.patches, vision.hidden_size, channels * patch**2
    return _product(m, n, k, m * n, width, make)


def _product(
    m: int, n: int, k: int, scratch: int, width: int, make: Callable[[Pool], Work]
) -> Case:
    return Case(
        kind=Product(m, n, k),
        flops=2 * m * n * k,
        moved_bytes=width * (m * k + n * k + m * n),
        weights=(n + 1) * k,
        activations=m * k,
        scratch=scratch,
        make=make,
    )


def _causal(tokens: int, heads: int, key_value_heads: int, head_dim: int, width: int) -> Case:
    return _attention(tokens, 1, heads, key_value_heads, head_dim, True, width)


def _encoder(tokens: int, images: int, heads: int, head_dim: int, width: int) -> Case:
    return _attention(tokens, images, heads, heads, head_dim, False, width)


def _attention(
    tokens: int,
    batch: int,
    heads: int,
    key_value_heads: int,
    head_dim: int,
    causal: bool,
    width: int,
) -> Case:
    def make(pool: Pool) -> Work:
        query, key, value = (
            pool.activations(batch, tokens, count, head_dim).transpose(1, 2)
            for count in (heads, key_value_heads, key_value_heads)
        )
        if causal:  # keys and values come out of the cache, which holds them head by head
            key, value = key.contiguous(), value.contiguous()
        module: Any = SimpleNamespace(
            num_key_value_groups=heads // key_value_heads, is_causal=causal
        )
        scaling = head_dim**-0.5
        return lambda: sdpa_attention_forward(module, query, key, value, None, scaling=scaling)

    elements = 2 * batch * tokens * (heads + key_value_heads) * head_dim  # q, k, v and the output
    kind = CausalAttention if causal else EncoderAttention
    return Case(
        kind=kind(tokens, batch, heads, key_value_heads, head_dim),
        flops=4 * batch * heads * tokens * tokens * head_dim,
        moved_bytes=width * elements,
        weights=0,
        activations=elements,
        scratch=4 * batch * tokens * heads * head_dim,  # an MLP is four times as wide
        make=make,
    )
