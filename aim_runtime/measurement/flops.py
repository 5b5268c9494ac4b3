"""FLOPs counted while the model runs, phase by phase, and the tokens that it really had."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from aim_cost.models.workload import LastLayer
from aim_cost.ops.op import PHASES
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import TokenTrace
from aim_runtime.measurement.clock import phase_hooks
from aim_runtime.models.load import Loaded
from aim_runtime.patching.patch import patched


class FlopRecorder:
    """A Recorder that reads a FLOP counter where others read a clock."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self._counter = counter
        self._open: list[int] = []
        self.flops: defaultdict[str, int] = defaultdict(int)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count the body under ``name``; what a nested span counts belongs to that span alone."""
        start = self._counter.get_total_flops()
        self._open.append(0)
        try:
            yield
        finally:
            total = self._counter.get_total_flops() - start
            self.flops[name] += total - self._open.pop()
            if self._open:
                self._open[-1] += total


def count_flops(
    loaded: Loaded,
    schedule: Schedule,
    forward: Callable[[], object],
    *,
    last_layer: LastLayer = LastLayer.ALL,
) -> tuple[dict[str, int], TokenTrace]:
    """Run ``forward()`` once under ``schedule``; ``last_layer`` as for ``patch``.

    Returns: FLOPs of each phase of the cost model, as torch.utils.flop_counter counts them, and the
    trace that the run recorded. The counter takes fused attention on a CPU for nothing, so there
    the unfused kernel runs.
    """
    backends = [SDPBackend.MATH] if loaded.device.type == "cpu" else list(_FUSED)
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(_FUSED_OPS, _attention))
    recorder = FlopRecorder(counter)
    with (
        torch.inference_mode(),
        sdpa_kernel(backends),
        patched(loaded.model, schedule, recorder=recorder, last_layer=last_layer) as trace,
        phase_hooks(loaded.model, recorder),
        counter,
    ):
        forward()
    return {name: n for name, n in recorder.flops.items() if name in PHASES}, trace.tokens


_FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
_FUSED_OPS = (
    torch.ops.aten._scaled_dot_product_flash_attention,
    torch.ops.aten._scaled_dot_product_efficient_attention,
    torch.ops.aten._scaled_dot_product_cudnn_attention,
)


def _attention(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """FLOPs of a fused attention whose key and value may have fewer heads than the query.

    Shapes: query[B, h, n, d], key[B, kv, m, d], value[B, kv, m, d]. On CUDA grouped heads reach
    the kernel as they are; the counter of torch 2.11 takes them for an error.
    """
    heads = query[1]
    return int(sdpa_flop_count(query, (key[0], heads, *key[2:]), (value[0], heads, *value[2:])))
