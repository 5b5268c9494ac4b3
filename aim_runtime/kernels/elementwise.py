"""Cases of elementwise ops, one for each op of the graph, run by the model's own code."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionModel
from transformers.activations import ACT2FN
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, apply_rotary_pos_emb

from aim_cost.models import decoder, vision
from aim_cost.models.model import ModelSpec
from aim_cost.ops import reduction
from aim_cost.ops.kind import Elementwise, Importance
from aim_cost.ops.op import Op
from aim_cost.timing.elementwise import measured_as
from aim_runtime.kernels.case import Case, Pool, Stream, Work
from aim_runtime.kernels.sizes import Sizes, every_other
from aim_runtime.reduction.importance import pagerank_importance
from aim_runtime.reduction.merge import match_tokens
from aim_runtime.reduction.select import take_tokens

_MERGE_SHARES = (1.0, 0.5, 0.25)  # of a frame's tokens, before a pass
_PASSES = 64  # bytes that unfused kernels move for each of the op's least bytes, at most

Make = Callable[[Pool], Work]


def elementwise_cases(
    spec: ModelSpec, sizes: Sizes, width: int, attention: str = "sdpa"
) -> list[Case]:
    """One case for each kind and size; ``eager`` attention adds its softmax."""
    cases: dict[tuple[Elementwise, float], Case] = {}
    text = spec.text
    for tokens in sizes.tokens:
        ops = decoder.layer_ops(text, 1, tokens, tokens, attention, width)
        ops += decoder.embedding_ops(1, tokens, text.hidden_size, width)
        ops += reduction.drop_ops(0, 1, tokens, text.hidden_size, text.head_dim, width)
        heads = text.num_attention_heads
        ops += reduction.importance_ops(0, 1, tokens, heads, text.head_dim, width)
        embeddings = text.vocab_size * text.hidden_size
        scratch = tokens * text.intermediate_size
        _collect(cases, ops, scratch, _decoder_work(spec, tokens), embeddings)
    for images in sizes.images:
        rows = images * spec.image_tokens
        ops = vision.tower_ops(spec.vision, images, width)
        ops += vision.projector_ops(spec.vision.hidden_size, text.hidden_size, rows, width)
        if spec.takes_video:
            frame = spec.frame_tokens
            ops += vision.pooling_ops(images, spec.image_tokens, frame, text.hidden_size, width)
        _collect(cases, ops, rows * spec.vision.intermediate_size, _vision_work(spec, images))
    group = spec.frame_tokens if spec.takes_video else spec.image_tokens
    for images in every_other(sizes.images):
        for share in _MERGE_SHARES:
            before = max(2, int(group * share))
            after = before - before // 2
            ops = reduction.merge_ops(images, (before, after), text.hidden_size, width)
            _collect(cases, ops, 0, _merge_work(images, before, text.hidden_size))
    return list(cases.values())


def _collect(
    cases: dict[tuple[Elementwise, float], Case],
    ops: Sequence[Op],
    scratch: int,
    work: dict[Elementwise, Make],
    embeddings: int = 0,
) -> None:
    for op in ops:
        if not isinstance(op.kind, Elementwise | Importance):
            continue
        kind = measured_as(op.kind)
        make = work.get(kind)
        if make is not None:
            cases[kind, op.bytes] = Case(
                kind=Stream(kind, op.bytes, op.kind.parts),
                flops=op.flops,
                moved_bytes=_PASSES * op.bytes,
                weights=embeddings if kind is Elementwise.EMBED_TOKENS else 0,
                activations=_input_elements(op),
                scratch=scratch,
                make=make,
            )


def _input_elements(op: Op) -> int:
    """At least the elements of an op's inputs; the score makes its matrices itself."""
    if isinstance(op.kind, Importance):
        return int(2 * op.kind.tokens * op.kind.heads * op.kind.head_dim)
    return int(op.bytes)


def _decoder_work(spec: ModelSpec, tokens: int) -> dict[Elementwise, Make]:
    text = spec.text
    hidden, inner, head_dim = text.hidden_size, text.intermediate_size, text.head_dim
    heads, pairs = text.num_attention_heads, text.num_key_value_heads

    def rms_norm(pool: Pool) -> Work:
        norm, x = Qwen2RMSNorm(hidden).to(pool.device, pool.dtype), pool.activations(tokens, hidden)
        return lambda: norm(x)

    def by_head(pool: Pool, count: int) -> Tensor:
        return pool.activations(1, tokens, count, head_dim).transpose(1, 2)

    def rotary(pool: Pool) -> Work:
        query, key = by_head(pool, heads), by_head(pool, pairs)
        cos, sin = (pool.activations(1, tokens, head_dim) for _ in range(2))
        return lambda: apply_rotary_pos_emb(query, key, cos, sin)

    def cache_append(pool: Pool) -> Work:
        key, value = by_head(pool, pairs), by_head(pool, pairs)
        empty = torch.empty(0, device=pool.device, dtype=pool.dtype)  # as DynamicCache begins
        return lambda: [torch.cat([empty, x], dim=-2) for x in (key, value)]

    def add(pool: Pool) -> Work:
        x, y = (pool.activations(1, tokens, hidden) for _ in range(2))
        return lambda: x + y

    def silu(pool: Pool) -> Work:
        act, x = ACT2FN["silu"], pool.activations(1, tokens, inner)
        return lambda: act(x)

    def gate_mul(pool: Pool) -> Work:
        x, y = (pool.activations(1, tokens, inner) for _ in range(2))
        return lambda: x * y

    def softmax(pool: Pool) -> Work:
        scores = pool.activations(1, heads, tokens, tokens)
        mask = pool.activations(1, 1, tokens, tokens)
        return lambda: functional.softmax(scores + mask, dim=-1, dtype=torch.float32).to(pool.dtype)

    def embed_tokens(pool: Pool) -> Work:
        table = pool.weights(text.vocab_size, hidden)
        ids = torch.randint(text.vocab_size, (1, tokens), device=pool.device)
        return lambda: functional.embedding(ids, table)

    def scatter_visual(pool: Pool) -> Work:
        x, visual = pool.activations(1, tokens, hidden), pool.activations(tokens, hidden)
        mask = torch.ones(1, tokens, 1, dtype=torch.bool, device=pool.device)
        return lambda: x.masked_scatter(mask.expand_as(x), visual)

    def gather(pool: Pool) -> Work:
        parts = [pool.activations(1, tokens, size) for size in (hidden, head_dim, head_dim)]
        index = torch.arange(tokens, device=pool.device).unsqueeze(0)
        return lambda: [take_tokens(part, index) for part in parts]

    def importance(pool: Pool) -> Work:
        query, key = by_head(pool, heads), by_head(pool, pairs)
        return lambda: pagerank_importance(query, key, scaling=head_dim**-0.5)

    return {
        Elementwise.RMS_NORM: rms_norm,
        Elementwise.ROTARY: rotary,
        Elementwise.CACHE_APPEND: cache_append,
        Elementwise.ADD: add,
        Elementwise.SILU: silu,
        Elementwise.GATE_MUL: gate_mul,
        Elementwise.SOFTMAX: softmax,
        Elementwise.EMBED_TOKENS: embed_tokens,
        Elementwise.SCATTER_VISUAL: scatter_visual,
        Elementwise.GATHER: gather,
        Elementwise.IMPORTANCE: importance,
    }


def _vision_work(spec: ModelSpec, images: int) -> dict[Elementwise, Make]:
    tower, tokens = spec.vision, spec.vision.tokens
    hidden, inner = tower.hidden_size, tower.intermediate_size

    def stream(pool: Pool) -> Tensor:
        """Hidden states as they lie between the layers of the tower."""
        if not tower.channel_major:
            return pool.activations(images, tokens, hidden)
        return pool.activations(images, hidden, tokens).transpose(1, 2)

    def layer_norm(pool: Pool) -> Work:
        norm, x = nn.LayerNorm(hidden).to(pool.device, pool.dtype), stream(pool)
        return lambda: norm(x)

    def position_embedding(pool: Pool) -> Work:
        patches = stream(pool)
        positions = pool.activations(1, tokens, hidden)
        return lambda: patches + positions

    def activation(pool: Pool) -> Work:
        act, x = ACT2FN["gelu_pytorch_tanh"], pool.activations(images, tokens, inner)
        return lambda: act(x)

    def gelu(pool: Pool) -> Work:
        act = ACT2FN["gelu"]
        x = pool.activations(images, spec.image_tokens, spec.text.hidden_size)
        return lambda: act(x)

    def tower_add(pool: Pool) -> Work:
        x, y = stream(pool), pool.activations(images, tokens, hidden)
        return lambda: x + y

    def bilinear(pool: Pool) -> Work:
        sides = SimpleNamespace(image_size=spec.square_side, patch_size=tower.patch_size)
        model: Any = SimpleNamespace(config=SimpleNamespace(vision_config=sides))
        x = pool.activations(images, spec.image_tokens, spec.text.hidden_size)
        return lambda: LlavaOnevisionModel.apply_pooling(model, x)

    return {
        Elementwise.LAYER_NORM: layer_norm,
        Elementwise.POSITION_EMBEDDING: position_embedding,
        Elementwise.ACTIVATION: activation,
        Elementwise.GELU: gelu,
        Elementwise.TOWER_ADD: tower_add,
        Elementwise.BILINEAR: bilinear,
    }


def _merge_work(images: int, before: int, hidden: int) -> dict[Elementwise, Make]:
    odd = before // 2

    def normalise(pool: Pool) -> Work:
        x = pool.activations(images, before, hidden)
        return lambda: functional.normalize(x, dim=-1)

    def best(pool: Pool) -> Work:
        similarity = pool.activations(images, before - odd, odd)

        def order() -> object:
            value, target = similarity.max(dim=-1)
            sources = value.argsort(dim=-1, descending=True, stable=True)[:, :odd]
            return target.gather(1, sources)

        return order

    def average(pool: Pool) -> Work:
        x = pool.activations(images, before, hidden)
        plan = match_tokens(x, odd)
        return lambda: plan.merge(x)

    return {
        Elementwise.NORMALISE: normalise,
        Elementwise.BEST: best,
        Elementwise.AVERAGE: average,
    }
