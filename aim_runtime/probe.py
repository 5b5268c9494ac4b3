"""The two ceilings of a device without a datasheet, measured."""

import time
from statistics import median

import torch

from aim_cost.hardware import HardwareProfile, Peak, Quantity

GEMM_SIZE = 2048
COPY_BYTES = 256 * 2**20
REPEATS = 7


def probe(device: torch.device, dtype: str) -> HardwareProfile:
    """Measure the rate of a large GEMM and of a device copy: medians, random data, after a warm-up.

    Returns: a profile called ``measured`` whose sources say how each number came about.
    """
    year = time.gmtime().tm_year
    flops_per_s = _gemm_flops_per_s(device, getattr(torch, dtype))
    bytes_per_s = _copy_bytes_per_s(device)
    how = f"median of {REPEATS} on this device, random data"
    return HardwareProfile(
        name="measured",
        title=f"This {device.type}, measured",
        architecture=device.type,
        release_year=Quantity(year, "year", "year of the measurement"),
        peak=Peak(
            flops_per_s={
                dtype: Quantity(
                    flops_per_s, "FLOP/s", f"measured: {GEMM_SIZE}^3 {dtype} GEMM, {how}"
                )
            },
            memory_bytes=Quantity(_memory_bytes(device), "B", "as the system reports it"),
            memory_bandwidth_bytes_per_s=Quantity(
                bytes_per_s, "B/s", f"measured: copy of {COPY_BYTES // 2**20} MiB, {how}"
            ),
        ),
    )


def _gemm_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(GEMM_SIZE, GEMM_SIZE, device=device, dtype=dtype) for _ in range(2))
    return 2 * GEMM_SIZE**3 / _seconds(device, lambda: torch.mm(a, b))


def _copy_bytes_per_s(device: torch.device) -> float:
    source = torch.randn(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _seconds(device, lambda: target.copy_(source))  # read and written


def _seconds(device: torch.device, work: object) -> float:
    from aim_runtime.timer import recorder_for

    times = []
    for _ in range(REPEATS + 2):
        recorder = recorder_for(device)
        with recorder.span("work"):
            work()  # type: ignore[operator]
        times.append(recorder.seconds()["work"])
    return median(times[2:])


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
