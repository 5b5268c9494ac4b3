"""The law of the fused importance score: tiles of tokens on the multiprocessors, by instructions.

The kernels of ``aim_runtime.reduction.importance_triton`` are bound by the instructions of a tile,
not by its products. Static count of the machine code that triton 3.6 makes for sm_90, bfloat16,
heads of 64 and 128, one tile of 64 x 64 tokens, instructions of a warp: 803 in the pass over rows,
974 in each of the five steps; four warps on four schedulers. None of it has been timed yet; a table
that ``aim-runtime microbench`` writes on a GPU fits the parameters.
"""

import numpy as np

from aim_cost.ops.formulas import IMPORTANCE_ITERATIONS
from aim_cost.ops.kind import FusedImportance
from aim_cost.timing.form import Array, Ceilings, Form, Parameter, soft_max

_TILE = 64  # tokens a side
_ROW_CLOCKS, _STEP_CLOCKS = 803, 974  # instructions of a warp; each takes a clock or more
_STALLS = 1.15  # clocks an instruction
_CLOCKS = _STALLS * (_ROW_CLOCKS + IMPORTANCE_ITERATIONS * _STEP_CLOCKS)


def _law(parameters: Array, ceilings: Ceilings, dims: tuple[Array, ...]) -> Array:
    """Tiles below the diagonal in all passes; the longest column of tiles is a floor."""
    tokens, batch, heads, _, _ = dims
    clocks, start = parameters
    tile_s = _CLOCKS * np.exp(clocks) / ceilings.clock_hz
    blocks = np.ceil(tokens / _TILE)
    spread_s = batch * heads * blocks * (blocks + 1) / 2 * tile_s / ceilings.multiprocessors
    starts_s = FusedImportance.launches * np.exp(start) * 1e-6
    time: Array = soft_max(spread_s, blocks * tile_s, 2.0) + starts_s
    return time


def _roofline(ceilings: Ceilings, dims: tuple[Array, ...]) -> Array:
    tokens, batch, heads, _, head_dim = dims
    flops = batch * heads * tokens**2 * head_dim * (IMPORTANCE_ITERATIONS + 1)  # below the diagonal
    bound: Array = flops / ceilings.flops_per_s
    return bound


def _coordinates(dims: tuple[Array, ...]) -> tuple[Array, ...]:
    _, batch, heads, _, head_dim = dims
    return np.log2(batch * heads), np.log2(head_dim)


FUSED_SCORE = Form(
    op=FusedImportance.label,
    dims=("tokens", "batch", "heads", "key_value_heads", "head_dim"),
    parameters=(
        Parameter("log_clocks_of_a_tile", 0.0, 0.1),
        Parameter("log_start_us", np.log(3.0), 0.1),
    ),
    law=_law,
    roofline=_roofline,
    coordinates=_coordinates,
    knots=((0, 6, 8, 10, 12, 14, 16), (0, 2, 4, 6, 8), (6, 7)),
)
