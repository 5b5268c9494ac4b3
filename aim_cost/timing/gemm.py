"""The law of x[m, k] @ w[k, n]: tiles in waves over the multiprocessors, or memory."""

import numpy as np

from aim_cost.timing.form import Array, Ceilings, Form, Parameter, sigmoid, soft_max, waves

TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))
SPLITS = (1, 2, 4, 8)
_AREAS = tuple(sorted({a * b for a, b in TILES}))
_ROUND_K = 100.0  # unit of the overhead of a tile, in steps of k


def _law(parameters: Array, ceilings: Ceilings, dims: tuple[Array, ...]) -> Array:
    """The fastest tile and split of k, softly joined with memory time.

    Every term grows with m, so time never falls as m grows.
    """
    m, n, k = dims
    compute, memory, start, overhead, whole, padding, sharp, split_start, split_traffic = (
        parameters[:9]
    )
    of_area = dict(zip(_AREAS, parameters[9:], strict=True))
    whole, padding = sigmoid(whole), sigmoid(padding)
    rate = ceilings.flops_per_s / ceilings.multiprocessors * np.exp(compute)
    fastest = np.full(np.broadcast(m, n, k).shape, np.inf)
    for tile_m, tile_n in TILES:
        tiles = np.ceil(m / tile_m) * np.ceil(n / tile_n) / ceilings.multiprocessors
        even = m / tile_m * (n / tile_n) / ceilings.multiprocessors
        even = padding * tiles + (1 - padding) * even
        area = tile_m * tile_n
        step_s = 2 * area / (rate * sigmoid(of_area[area]))
        for split in SPLITS:
            time_s = waves(tiles * split, even * split, whole) * step_s
            time_s = time_s * (k / split + np.exp(overhead) * _ROUND_K)
            if split > 1:  # partial sums are written, read and added up
                partial_s = np.exp(split_traffic) * split * m * n / ceilings.elements_per_s
                time_s = time_s + np.exp(split_start) * 1e-6 + partial_s
            fastest = np.minimum(fastest, time_s)
    memory_s = _elements(dims) / (ceilings.elements_per_s * np.exp(memory))
    time: Array = soft_max(fastest, memory_s, 1 + np.exp(sharp)) + np.exp(start) * 1e-6
    return time


def _elements(dims: tuple[Array, ...]) -> Array:
    m, n, k = dims
    return m * k + k * n + m * n


def _roofline(ceilings: Ceilings, dims: tuple[Array, ...]) -> Array:
    m, n, k = dims
    flops: Array = 2.0 * m * n * k
    return np.maximum(flops / ceilings.flops_per_s, _elements(dims) / ceilings.elements_per_s)


GEMM = Form(
    op="gemm",
    dims=("m", "n", "k"),
    parameters=(
        Parameter("log_compute_efficiency", np.log(0.85), 0.1),
        Parameter("log_bandwidth_efficiency", np.log(0.9), 0.1),
        Parameter("log_start_us", np.log(3.0), 0.1),
        Parameter("log_tile_overhead_100k", 0.0),
        Parameter("logit_whole_waves", 1.0),
        Parameter("logit_padding", 0.0),
        Parameter("log_sharpness", 1.0),
        Parameter("log_split_start_us", np.log(2.0)),
        Parameter("log_split_elements", 0.3),
        *(
            Parameter(f"logit_tile_{area}", 3 - 0.8 * float(np.log2(32768 / area)))
            for area in _AREAS
        ),
    ),
    law=_law,
    roofline=_roofline,
    coordinates=lambda dims: (np.log2(dims[1]), np.log2(dims[2])),
    knots=(
        (0, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15),
        (5, 7, 8, 9, 10, 11, 12, 13, 16),
        (5, 7, 9, 11, 13, 16),
    ),
)
