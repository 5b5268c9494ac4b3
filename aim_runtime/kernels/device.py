"""The hardware profile of the present device."""

import torch

from aim_cost.devices.hardware import HardwareProfile, find_hardware
from aim_runtime.kernels.probe import probe


def known_profile(device: torch.device) -> HardwareProfile | None:
    """The shipped profile of ``device``; None for a CPU and for a GPU that is not known."""
    if device.type != "cuda":
        return None
    return find_hardware(torch.cuda.get_device_name(device))


def present_hardware(device: torch.device, dtype: str) -> HardwareProfile:
    """The datasheet profile of ``device``, or, where there is none, ceilings measured now.

    Measuring takes a few seconds. A CPU is always measured: its datasheet says little about the
    share of it that we get.
    """
    return known_profile(device) or probe(device, dtype)
