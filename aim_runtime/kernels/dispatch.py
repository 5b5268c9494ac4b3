"""The cost of starting kernels: the host's time for each, and the device's least time."""

import time
from collections.abc import Callable
from dataclasses import fields
from statistics import median, quantiles

import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from aim_cost.models import decoder
from aim_cost.models.model import ModelSpec
from aim_cost.ops.kind import Elementwise
from aim_cost.render import Row
from aim_cost.timing.elementwise import Dispatch, default_eager, figures_of

_CALLS = 15  # layers started in a row: fewer kernels than a CUDA queue holds
_KERNELS = 200
_REPEATS = 20
_WAIT_CYCLES = 1_000_000  # about half a millisecond, many times what launching a graph takes
_SYNCHRONOUS_S = 1e-9  # a CPU computes in step: what starting costs is part of each kernel's time


def dispatch_rows(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """Seconds a kernel by ``kind``: host_s_per_kernel, launch_s, graph_launch_s.

    Host: a decoder layer of one token is started again and again without waiting; its time is
    divided by the kernels that the cost model counts. Launch: empty kernels queued one after
    another, by the stream and inside a CUDA graph. Medians and quartiles of 20.
    """
    if device.type == "cpu":
        times = {field.name: [_SYNCHRONOUS_S] for field in fields(Dispatch)}
    else:
        times = {
            "host_s_per_kernel": _host_s(spec, device, dtype),
            "launch_s": _launch_s(device),
            "graph_launch_s": _graph_launch_s(device),
        }
    return [{"kind": kind, **_spread(values)} for kind, values in times.items()]


def _spread(values: list[float]) -> Row:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"latency_ms": median(values) * 1e3, "low_ms": low * 1e3, "high_ms": high * 1e3}


def _host_s(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> list[float]:
    text = spec.text
    config = Qwen2Config(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        num_hidden_layers=1,
    )
    config._attn_implementation = "sdpa"
    layer = Qwen2DecoderLayer(config, 0).to(device, dtype).eval()
    x = torch.randn(1, 1, text.hidden_size, device=device, dtype=dtype)
    angles = tuple(torch.randn(1, 1, text.head_dim, device=device, dtype=dtype) for _ in range(2))
    figures, _ = default_eager()
    kernels = sum(
        figures_of(figures, op.kind).kernels if isinstance(op.kind, Elementwise) else 1
        for op in decoder.layer_ops(text, 1, 1, 1, "sdpa", 2)
    )

    def start() -> None:
        for _ in range(_CALLS):
            layer(x, position_embeddings=angles)

    return [seconds / (_CALLS * kernels) for seconds in _started(start, device)]


def _started(work: Callable[[], None], device: torch.device) -> list[float]:
    times = []
    for _ in range(_REPEATS + 1):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize(device)
    return times[1:]


def _launch_s(device: torch.device) -> list[float]:
    cell = torch.zeros(1, device=device)
    ahead = torch.randn(4096, 4096, device=device)

    def work() -> None:
        for _ in range(_KERNELS):
            cell.add_(1)

    times = []
    for _ in range(_REPEATS + 1):
        for _ in range(8):  # keeps the device busy until all is queued
            ahead @ ahead
        times.append(elapsed_s(work) / _KERNELS)
    return times[1:]


def _graph_launch_s(device: torch.device) -> list[float]:
    cell = torch.zeros(1, device=device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_KERNELS):
            cell.add_(1)
    return [graph_elapsed_s(graph) / _KERNELS for _ in range(_REPEATS + 1)][1:]


def graph_elapsed_s(graph: torch.cuda.CUDAGraph) -> float:
    """Seconds that the device needs for a captured graph, without the host's time to launch it.

    The device waits first, so that the launch has ended when the clock starts.
    """
    torch.cuda._sleep(_WAIT_CYCLES)
    return elapsed_s(graph.replay)


def elapsed_s(work: Callable[[], None]) -> float:
    """Seconds between two events around ``work()`` on the current stream."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1e-3
