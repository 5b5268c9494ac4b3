"""AIM's importance score as Triton kernels: the attention matrix is never written.

Every pass recomputes tiles of q k^T. One pass over rows keeps each row's maximum and the inverse of
its sum; then each power iteration is one pass in which a program owns a block of columns and walks
down the rows that see it. Nothing is added by two programs, so results are the same in every run.
``aim_runtime.reduction.importance`` is the reference. Needs triton; without a GPU, its interpreter
(TRITON_INTERPRET=1 before triton is first imported).
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula
from triton.runtime import JITFunction

from aim_runtime.errors import InputError
from aim_runtime.reduction.importance import ITERATIONS, TEMPERATURE

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_LEAST_DOT = 16  # the smallest side of a tile product
_LARGEST_ROW = 256  # bytes of a padded head, for blocks of 64 tokens
_RMS_BLOCK = 128


@triton.jit
def _tile(
    head, stride_row, stride_dim, first, tokens, dims, BLOCK: tl.constexpr, DIM: tl.constexpr
):
    """Rows ``first`` .. ``first + BLOCK`` of one head's q or k; zeros where there are none."""
    rows = first + tl.arange(0, BLOCK)
    columns = tl.arange(0, DIM)
    inside = (rows[:, None] < tokens) & (columns[None, :] < dims)
    offsets = rows[:, None] * stride_row + columns[None, :] * stride_dim
    return tl.load(head + offsets, mask=inside, other=0.0)


@triton.jit
def _logits(q, k, scaling, inverse_temperature):
    """q k^T, scaled in two steps, each rounded to the dtype of q as the reference rounds."""
    product = tl.dot(q, tl.trans(k), input_precision="ieee").to(q.dtype).to(tl.float32)
    scaled = (product * scaling).to(q.dtype).to(tl.float32)
    return (scaled * inverse_temperature).to(q.dtype).to(tl.float32)


@triton.jit
def _head(pointer, stride_batch, stride_head, row, heads, group):
    """Where the head of program row ``row`` = batch * heads + head begins."""
    batch, head = (row // heads).to(tl.int64), (row % heads // group).to(tl.int64)
    return pointer + batch * stride_batch + head * stride_head


@triton.jit
def _first_real(padding, line, heads, PADDED: tl.constexpr):
    """Where the prompt of program row ``line`` begins: tokens before that are padding."""
    return tl.load(padding + line // heads).to(tl.int32) if PADDED else 0


@triton.jit(do_not_specialize=["tokens"])
def _row_kernel(
    query, key, padding, maximum, inverse_sum, rank,
    query_batch, query_head, query_row, query_dim,
    key_batch, key_head, key_row, key_dim,
    tokens, heads, group, dims, scaling, inverse_temperature,
    BLOCK: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Each row's largest logit and 1 / sum of exp(logit - largest); rank starts uniform."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK  # the longest rows start first
    line = tl.program_id(1)
    real = _first_real(padding, line, heads, PADDED)
    q_head = _head(query, query_batch, query_head, line, heads, 1)
    k_head = _head(key, key_batch, key_head, line, heads, group)
    rows = first + tl.arange(0, BLOCK)
    q = _tile(q_head, query_row, query_dim, first, tokens, dims, BLOCK, DIM)
    # finite: a block of columns may hide all of a row
    largest = tl.full([BLOCK], -3.0e38, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, first + BLOCK, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        k = _tile(k_head, key_row, key_dim, start, tokens, dims, BLOCK, DIM)
        logits = _logits(q, k, scaling, inverse_temperature)
        seen = columns[None, :] <= rows[:, None]
        if PADDED:  # a row of padding sees itself, so that none is empty
            seen &= (columns[None, :] >= real) | (columns[None, :] == rows[:, None])
        logits = tl.where(seen, logits, float("-inf"))
        higher = tl.maximum(largest, tl.max(logits, 1))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        largest = higher
    at = line.to(tl.int64) * tokens + rows
    tl.store(maximum + at, largest, mask=rows < tokens)
    tl.store(inverse_sum + at, 1.0 / total, mask=rows < tokens)
    tl.store(rank + at, tl.where(rows >= real, 1.0 / (tokens - real), 0.0), mask=rows < tokens)


@triton.jit(do_not_specialize=["tokens"])
def _step_kernel(
    query, key, padding, maximum, inverse_sum, rank, following,
    query_batch, query_head, query_row, query_dim,
    key_batch, key_head, key_row, key_dim,
    tokens, heads, group, dims, scaling, inverse_temperature,
    BLOCK: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """One power iteration: following[j] = sum over i >= j of rank[i] * M[i, j]."""
    first = tl.program_id(0) * BLOCK  # the longest columns start first
    line = tl.program_id(1)
    real = _first_real(padding, line, heads, PADDED)
    q_head = _head(query, query_batch, query_head, line, heads, 1)
    k_head = _head(key, key_batch, key_head, line, heads, group)
    columns = first + tl.arange(0, BLOCK)
    k = _tile(k_head, key_row, key_dim, first, tokens, dims, BLOCK, DIM)
    base = line.to(tl.int64) * tokens
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(first, tokens, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        inside = rows < tokens
        q = _tile(q_head, query_row, query_dim, start, tokens, dims, BLOCK, DIM)
        largest = tl.load(maximum + base + rows, mask=inside, other=0.0)
        weight = tl.load(rank + base + rows, mask=inside, other=0.0)
        weight *= tl.load(inverse_sum + base + rows, mask=inside, other=0.0)
        logits = _logits(q, k, scaling, inverse_temperature)
        seen = (columns[None, :] <= rows[:, None]) & inside[:, None]
        mass = tl.where(seen, tl.exp(logits - largest[:, None]), 0.0)
        total += tl.sum(mass * weight[:, None], 0)
    total = tl.where(columns >= real, total, 0.0)
    tl.store(following + base + columns, total, mask=columns < tokens)


@triton.jit(do_not_specialize=["tokens"])
def _rms_kernel(rank, scores, tokens, heads, BLOCK: tl.constexpr):
    """Root mean square over the heads of a prompt, added up in their order."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < tokens
    batch = tl.program_id(1).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for head in range(heads):
        part = tl.load(rank + (batch * heads + head) * tokens + columns, mask=inside, other=0.0)
        total += part * part
    tl.store(scores + batch * tokens + columns, tl.sqrt(total / heads), mask=inside)


@torch.no_grad()
def fused_importance(
    query: Tensor,
    key: Tensor,
    *,
    scaling: float,
    iterations: int = ITERATIONS,
    temperature: float = TEMPERATURE,
    padding: Tensor | None = None,
) -> Tensor:
    """``pagerank_importance`` without its matrices: the same scores, but for rounding.

    Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], any strides, bfloat16, float16 or
        float32 -> [B, n] fp32 on the same device. Works on meta.
    Args: padding, int64 [B], tokens of padding at the start of each row: they score 0 and change
        no other score.
    Launches: iterations + 2 kernels, whatever the number of heads. Memory: 4 * heads * n floats a
        prompt. The inputs are not changed.
    FLOPs as torch counts them: heads * n * n * (2 * d * (iterations + 1) + 2 * iterations) a
        prompt; recomputed tiles are counted, causal skipping (2x) is not.
    Raises: InputError for another dtype or device, or for heads that do not share keys evenly.
    """
    _check(query, key)
    return torch.ops.aim.importance(query, key, scaling, iterations, temperature, padding)


def _check(query: Tensor, key: Tensor) -> None:
    batch, heads, tokens, dims = query.shape
    if query.device.type == "cpu" and isinstance(_row_kernel, JITFunction):
        raise InputError(
            "device",
            expected="cuda, meta, or a CPU with Triton's interpreter",
            got="cpu",
            fix="Use aim_runtime.reduction.importance.pagerank_importance; TRITON_INTERPRET=1 is "
            "for tests.",
        )
    if query.dtype not in _DTYPES or key.dtype != query.dtype:
        raise InputError(
            "query and key",
            expected=f"one dtype of {', '.join(str(dtype)[6:] for dtype in _DTYPES)}",
            got=f"{query.dtype} and {key.dtype}",
            fix="Convert them, or use aim_runtime.reduction.importance.pagerank_importance.",
        )
    expected = (batch, key.shape[1], tokens, dims)
    if tuple(key.shape) != expected or heads % key.shape[1]:
        raise InputError(
            "key",
            expected=f"[{batch}, a divisor of {heads}, {tokens}, {dims}], beside the query",
            got=list(key.shape),
            fix="Give the q and k of one layer, after the rotary embedding.",
        )


def launch_sizes(dims: int, dtype: torch.dtype) -> dict[str, int]:
    """Tokens a block, elements of a padded head, warps and pipeline stages.

    Chosen so that what ptxas makes of them for sm_80 and sm_90 keeps its values in registers.
    """
    width = max(_LEAST_DOT, triton.next_power_of_2(dims))
    block = 64 if width * dtype.itemsize <= _LARGEST_ROW else 32
    # float32 products run outside the tensor cores and need more registers
    warps, stages = (8, 1) if dtype == torch.float32 else (4, 3)
    return {"BLOCK": block, "DIM": width, "num_warps": warps, "num_stages": stages}


@torch.library.custom_op("aim::importance", mutates_args=())
def _importance(
    query: Tensor,
    key: Tensor,
    scaling: float,
    iterations: int,
    temperature: float,
    padding: Tensor | None,
) -> Tensor:
    batch, heads, tokens, dims = query.shape
    lines = batch * heads
    # each begins at a multiple of 16 bytes, so that one compilation serves every count of tokens
    width = triton.cdiv(lines * tokens, 4) * 4
    vectors = query.new_empty(4, width, dtype=torch.float32)[:, : lines * tokens]
    maximum, inverse_sum, rank, following = vectors.unflatten(1, (lines, tokens))
    shared = (
        *query.stride(),
        *key.stride(),
        *(tokens, heads, heads // key.shape[1], dims),
        # the reference divides by 1 / scaling and by the temperature
        *(1 / (1 / scaling), 1 / temperature),
    )
    sizes = launch_sizes(dims, query.dtype) | {"PADDED": padding is not None}
    given = (query, key, query if padding is None else padding)
    grid = (triton.cdiv(tokens, sizes["BLOCK"]), lines)
    _row_kernel[grid](*given, maximum, inverse_sum, rank, *shared, **sizes)
    for _ in range(iterations):
        _step_kernel[grid](*given, maximum, inverse_sum, rank, following, *shared, **sizes)
        rank, following = following, rank
    scores = query.new_empty(batch, tokens, dtype=torch.float32)
    grid = (triton.cdiv(tokens, _RMS_BLOCK), batch)
    _rms_kernel[grid](rank, scores, tokens, heads, BLOCK=_RMS_BLOCK)
    return scores


@_importance.register_fake
def _shapes(
    query: Tensor,
    key: Tensor,
    scaling: float,
    iterations: int,
    temperature: float,
    padding: Tensor | None,
) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], dtype=torch.float32)


@register_flop_formula(torch.ops.aim.importance)
def _flops(
    query: Sequence[int],
    key: Sequence[int],
    scaling: float,
    iterations: int,
    temperature: float,
    padding: Sequence[int] | None,
    out_shape: object = None,
) -> int:
    batch, heads, tokens, dims = query
    return batch * heads * tokens**2 * (2 * dims * (iterations + 1) + 2 * iterations)
