"""Where a measurement was made: device, clocks, versions, commit. Nothing that names a host."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

_GPU_FIELDS = {
    "driver_version": "driver",
    "clocks.max.sm": "max_sm_clock_mhz",
    "clocks.sm": "sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.limit": "power_limit_w",
    "power.draw": "power_draw_w",
    "temperature.gpu": "temperature_c",
}


def environment() -> dict[str, Any]:
    """Flat facts about this machine and this checkout; None for what cannot be read."""
    gpu = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None
        if (changes := _git("status", "--porcelain")) is None
        else changes != "",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "os": platform.system(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        **(_gpu_state() if gpu else dict.fromkeys(_GPU_FIELDS.values())),
    }


def _run(*command: str) -> str | None:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _git(*arguments: str) -> str | None:
    """What git says of our own checkout; None when we are installed, maybe inside another one."""
    root = _run("git", "rev-parse", "--show-toplevel")
    if root is None or Path(root).resolve() != Path(__file__).resolve().parents[1]:
        return None
    return _run("git", "--no-optional-locks", *arguments)


def _gpu_state() -> dict[str, str | None]:
    query = f"--query-gpu={','.join(_GPU_FIELDS)}"
    # torch counts only the visible devices, nvidia-smi all of them
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    output = _run("nvidia-smi", query, "--format=csv,noheader,nounits", "-i", uuid)
    values = output.split(", ") if output else [None] * len(_GPU_FIELDS)
    return dict(zip(_GPU_FIELDS.values(), values, strict=True))


def cpu_name() -> str | None:
    """What the system calls the processor; None where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None
