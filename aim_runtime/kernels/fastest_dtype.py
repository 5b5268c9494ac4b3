"""fastest_dtype(): the dtype in which a device multiplies fastest."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import torch

from aim_runtime.measurement.clock import recorder_for

_SHAPE = 512, 896, 4864  # tokens, hidden and MLP size of a small LLM: 0.05 s in fp32 on two cores
_ROUNDS = 3
_CANDIDATES = ("float32", "bfloat16")


@dataclass(frozen=True)
class FastestDtype:
    """Args: dtype, its name; reason, a sentence with what was measured, empty where nothing was."""

    dtype: str
    reason: str


@lru_cache
def fastest_dtype(device: torch.device) -> FastestDtype:
    """bfloat16 on a GPU; on a CPU the faster of float32 and bfloat16, measured once a process.

    A CPU with AMX multiplies bfloat16 several times faster than float32, one without bfloat16 units
    several times slower. Medians of interleaved products of random matrices, in about a second.
    """
    if device.type != "cpu":
        return FastestDtype("bfloat16", "")
    seconds = _interleaved({name: _product(getattr(torch, name)) for name in _CANDIDATES})
    best, other = sorted(seconds, key=lambda name: seconds[name])
    gain = seconds[other] / seconds[best]
    return FastestDtype(best, f"{best}: this CPU multiplies it {gain:.1f}x faster than {other}")


def _product(dtype: torch.dtype) -> Callable[[], object]:
    rows, inner, columns = _SHAPE
    a, b = (
        torch.randn(*shape, device="cpu").to(dtype) for shape in ((rows, inner), (inner, columns))
    )
    return lambda: a @ b


def _interleaved(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, over rounds in which each runs once, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(1 + _ROUNDS):
        for name, work in works.items():
            recorder = recorder_for(torch.device("cpu"))
            with recorder.span("work"):
                work()
            if round_:
                times[name].append(recorder.seconds()["work"])
    return {name: median(one) for name, one in times.items()}
