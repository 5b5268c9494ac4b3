"""Which hardware profile describes the device we run on."""

import re

import torch

from aim_cost.devices.hardware import HardwareProfile, load_hardware
from aim_runtime.kernels.probe import probe

# torch.cuda.get_device_name -> profile; the first pattern that matches wins
_PROFILES = (
    (r"GB200", "gb200"),
    (r"B300", "b300-sxm"),
    (r"B200", "b200-sxm"),
    (r"GH200 144", "gh200-144gb"),
    (r"GH200", "gh200-96gb"),
    (r"H200", "h200-sxm"),
    (r"H100 PCIe", "h100-pcie"),
    (r"H100 NVL", "h100-nvl"),
    (r"H100", "h100-sxm"),
    (r"H20\b", "h20"),
    (r"A100-SXM.*80GB", "a100-sxm4-80gb"),
    (r"A100-SXM", "a100-sxm4-40gb"),
    (r"A100.*80GB", "a100-pcie-80gb"),
    (r"A100", "a100-pcie-40gb"),
    (r"A800-SXM", "a800-sxm4-80gb"),
    (r"RTX 6000 Ada", "rtx-6000-ada"),
    (r"RTX A6000", "rtx-a6000"),
    (r"RTX PRO 6000.*Server", "rtx-pro-6000-blackwell-server"),
    (r"RTX PRO 6000", "rtx-pro-6000-blackwell-ws"),
    (r"RTX 5090\b(?! Laptop)", "rtx-5090"),
    (r"RTX 4090\b(?! Laptop)", "rtx-4090"),
    (r"RTX 3090\b(?! Ti)", "rtx-3090"),
    (r"L40S", "l40s"),
    (r"L40\b", "l40"),
    (r"L4\b", "l4"),
    (r"A10G", "a10g"),
    (r"A10\b", "a10"),
    (r"A30\b", "a30"),
    (r"A40\b", "a40"),
    (r"Tesla T4|\bT4\b", "t4"),
    (r"V100-SXM2-32GB", "v100-sxm2-32gb"),
    (r"V100-SXM2-16GB", "v100-sxm2-16gb"),
    (r"MI355X", "mi355x"),
    (r"MI325X", "mi325x"),
    (r"MI300X", "mi300x"),
)


def profile_name(device_name: str) -> str | None:
    """The shipped profile of a device as CUDA or ROCm names it; None for an unknown one."""
    for pattern, name in _PROFILES:
        if re.search(pattern, device_name):
            return name
    return None


def known_profile(device: torch.device) -> str | None:
    """The shipped profile of ``device``; None for a CPU and for a GPU that is not known."""
    return profile_name(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def present_hardware(device: torch.device, dtype: str) -> HardwareProfile:
    """The datasheet profile of ``device``, or, where there is none, ceilings measured now.

    Measuring takes a few seconds. A CPU is always measured: its datasheet says little about the
    share of it that we get.
    """
    name = known_profile(device)
    return probe(device, dtype) if name is None else load_hardware(name)
