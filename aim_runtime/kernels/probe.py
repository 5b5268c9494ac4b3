"""The two ceilings of a device without a datasheet, measured."""

import os
import time
from collections.abc import Callable
from statistics import median

import torch

from aim_cost.devices.hardware import HardwareProfile, Peak, Quantity
from aim_runtime.measurement.clock import recorder_for

# large enough to fill the device and to hide the launch, small enough for a few seconds in all
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}
REPEATS = 7
WARMUP = 2


def probe(device: torch.device, dtype: str) -> HardwareProfile:
    """Measure the rate of a large GEMM and of a device copy: medians, random data, after a warm-up.

    Returns: a profile called ``measured`` whose sources say how each number came about.
    Raises: MeasurementError for a device that is neither CUDA nor a CPU.
    """
    recorder_for(device)  # refuses a device that cannot be timed
    how = f"median of {REPEATS} on this device, random data"
    gemm_size, copy_bytes = GEMM_SIZE[device.type], COPY_BYTES[device.type]
    return HardwareProfile(
        name="measured",
        title=f"This {device.type}, measured",
        architecture=device.type,
        release_year=Quantity(time.gmtime().tm_year, "year", "year of the measurement"),
        peak=Peak(
            flops_per_s={
                dtype: Quantity(
                    _gemm_flops_per_s(device, getattr(torch, dtype), gemm_size),
                    "FLOP/s",
                    f"measured: {gemm_size}^3 {dtype} GEMM, {how}",
                )
            },
            memory_bytes=Quantity(_memory_bytes(device), "B", "as the system reports it"),
            memory_bandwidth_bytes_per_s=Quantity(
                _copy_bytes_per_s(device, copy_bytes),
                "B/s",
                f"measured: copy of {copy_bytes // 2**20} MiB, read and written, {how}",
            ),
            multiprocessors=_multiprocessors(device),
        ),
    )


def speed_since(profile: HardwareProfile, device: torch.device, dtype: str) -> float | None:
    """The rate of the large GEMM now over the rate in a measured ``profile``.

    A shared or hot machine drifts; the ratio tells that apart from a wrong prediction.
    Returns: None for a profile whose rate comes from a datasheet.
    """
    then = profile.peak.flops_per_s.get(dtype)
    if then is None or not then.measured:
        return None
    now = _gemm_flops_per_s(device, getattr(torch, dtype), GEMM_SIZE[device.type])
    return now / float(then.value)


def _gemm_flops_per_s(device: torch.device, dtype: torch.dtype, size: int) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _seconds(device, lambda: torch.mm(a, b))


def _copy_bytes_per_s(device: torch.device, size_bytes: int) -> float:
    source = torch.randn(size_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size_bytes / _seconds(device, lambda: target.copy_(source))  # read and written


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    times = []
    for _ in range(WARMUP + REPEATS):
        recorder = recorder_for(device)
        with recorder.span("work"):
            work()
        times.append(recorder.seconds()["work"])
    return median(times[WARMUP:])


def _multiprocessors(device: torch.device) -> Quantity:
    if device.type == "cuda":
        count = torch.cuda.get_device_properties(device).multi_processor_count
        return Quantity(count, "count", "as the driver reports it")
    return Quantity(torch.get_num_threads(), "count", "threads that torch computes with")


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
