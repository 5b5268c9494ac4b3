"""Where a measurement was made: device, clocks, versions, commit. Nothing that names a host."""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers

from aim_cost.render import Row

COMMIT_VARIABLE = "AIM_COMMIT"
"""Names the commit where the code runs without its git repository."""

_GPU_FIELDS = {
    "driver_version": "driver",
    "clocks.max.sm": "max_sm_clock_mhz",
    "clocks.sm": "sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.limit": "power_limit_w",
    "power.draw": "power_draw_w",
    "temperature.gpu": "temperature_c",
}
# newer drivers, older ones
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_HARMLESS_REASONS = 0x1 | 0x2  # the GPU is idle; the clock is the one that was asked for


@dataclass(frozen=True)
class GpuState:
    """Clock and temperature at one moment; None for what cannot be read.

    Args: reasons, why the clock is below its maximum, a bit each, as nvidia-smi lists them under
        ``clocks_event_reasons.active``.
    """

    sm_clock_mhz: float | None = None
    temperature_c: float | None = None
    reasons: int | None = None

    @property
    def throttled(self) -> bool:
        """Whether power, heat or the hardware holds the clock down."""
        return bool((self.reasons or 0) & ~_HARMLESS_REASONS)

    def to_row(self) -> Row:
        return asdict(self)


@dataclass(frozen=True)
class Environment:
    """Where and with what a measurement was made; None for what cannot be read.

    Args:
        date: UTC.
        commit: of the code; uncommitted_changes: whether it had any.
        cudnn, cpu_count, torch_threads: numbers; units of the others are in their names.
        rehearsal: whether no device ran and the clock was a model.
    """

    date: str | None = None
    commit: str | None = None
    uncommitted_changes: bool | None = None
    python: str | None = None
    torch: str | None = None
    transformers: str | None = None
    triton: str | None = None
    cuda: str | None = None
    cudnn: int | None = None
    os: str | None = None
    cpu: str | None = None
    cpu_count: int | None = None
    torch_threads: int | None = None
    gpu: str | None = None
    driver: str | None = None
    max_sm_clock_mhz: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_limit_w: float | None = None
    power_draw_w: float | None = None
    temperature_c: float | None = None
    rehearsal: bool = False

    def to_row(self) -> Row:
        """Plain data; ``rehearsal`` only where it is one."""
        row = asdict(self)
        if not self.rehearsal:
            del row["rehearsal"]
        return row

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Environment":
        """The inverse of ``to_row``; other versions of it may know more or less."""
        return cls(**{field.name: row[field.name] for field in fields(cls) if field.name in row})


def environment() -> Environment:
    """This machine and this checkout.

    ``commit`` comes from git, else from the variable AIM_COMMIT.
    """
    gpu = torch.cuda.is_available()
    commit = _git("rev-parse", "HEAD")
    changes = None if commit is None else _git("status", "--porcelain")
    return Environment(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit or os.environ.get(COMMIT_VARIABLE) or None,
        uncommitted_changes=None if changes is None else changes != "",
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        triton=_version("triton"),
        cuda=torch.version.cuda,
        cudnn=_cudnn() if gpu else None,
        os=platform.system(),
        cpu=cpu_name(),
        cpu_count=os.cpu_count(),
        torch_threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if gpu else None,
        **(_gpu_facts() if gpu else {}),
    )


def gpu_state() -> GpuState:
    """The GPU as it is now; all None without one or without nvidia-smi."""
    if not torch.cuda.is_available():
        return GpuState()
    clock, temperature = _query("clocks.sm", "temperature.gpu") or (None, None)
    reasons = next((found[0] for name in _REASONS if (found := _query(name))), None)
    return GpuState(_number(clock), _number(temperature), _bits(reasons))


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
    root = _run("git", "rev-parse", "--show-toplevel")  # parents: measurement, aim_runtime, it
    if root is None or Path(root).resolve() != Path(__file__).resolve().parents[2]:
        return None
    return _run("git", "--no-optional-locks", *arguments)


def _cudnn() -> int | None:
    found = torch.backends.cudnn.version()
    return None if found is None else int(found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu_facts() -> dict[str, Any]:
    values = _query(*_GPU_FIELDS) or (None,) * len(_GPU_FIELDS)
    facts: dict[str, Any] = dict(zip(_GPU_FIELDS.values(), values, strict=True))
    return {name: value if name == "driver" else _number(value) for name, value in facts.items()}


def _query(*fields: str) -> list[str] | None:
    """What nvidia-smi says of the GPU that torch uses; None where it does not know a field."""
    # torch counts only the visible devices, nvidia-smi all of them
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    query = f"--query-gpu={','.join(fields)}"
    output = _run("nvidia-smi", query, "--format=csv,noheader,nounits", "-i", uuid)
    values = [value.strip() for value in output.split(",")] if output else []
    return values if len(values) == len(fields) else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:  # [N/A]
        return None


def _bits(text: str | None) -> int | None:
    try:
        return int(text, 16) if text is not None else None
    except ValueError:
        return None


def cpu_name() -> str | None:
    """What the system calls the processor; None where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None
