"""The calibration of the present device: the shipped one, or one measured here and kept."""

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from aim_cost.devices.hardware import HardwareProfile, load_hardware
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Workload
from aim_cost.ops.formulas import IMPORTANCE_ROWS
from aim_cost.timing.calibration import Calibration, calibration_names, load_calibration
from aim_cost.timing.fit.calibrate import fit_calibration
from aim_runtime.kernels.device import known_profile
from aim_runtime.kernels.microbench import PROFILE_FILE, microbench
from aim_runtime.kernels.probe import speed_since
from aim_runtime.measurement.environment import cpu_name

_CALIBRATION_FILE = "calibration.yaml"
_DRIFT = 1.25


def present_calibration(
    spec: ModelSpec,
    workload: Workload,
    device: torch.device,
    dtype: str = "bfloat16",
    seconds: float | None = None,
) -> tuple[HardwareProfile, Calibration]:
    """The profile and the calibration that price ``workload`` on ``device``.

    A GPU whose calibration is shipped gets that one. Any other device is measured for ``seconds``
    (as in ``microbench``), once for each model, size of prompt, dtype and version of torch and
    transformers; the tables stay in ``cache_folder``. They are measured again where the device now
    runs more than a quarter faster or slower than it did then, since it was busy one of the two
    times.
    """
    known = known_profile(device)
    if known is not None and known.name in calibration_names():
        return known, load_calibration(known.name)
    folder = cache_folder(spec, workload, device, dtype)
    profile_file, file = folder / PROFILE_FILE, folder / _CALIBRATION_FILE
    if file.exists() and not _still_holds(load_hardware(profile_file), device, dtype):
        file.unlink()
    if not file.exists():
        microbench(spec, workload, folder, device, dtype, seconds)
        fit_calibration(folder, load_hardware(profile_file), dtype).save(file)
    return load_hardware(profile_file), Calibration.from_yaml(file)


def _still_holds(profile: HardwareProfile, device: torch.device, dtype: str) -> bool:
    speed = speed_since(profile, device, dtype)
    if speed is None or 1 / _DRIFT <= speed <= _DRIFT:
        return True
    share = f"{100 * speed:.0f} %"
    print(f"this device runs at {share} of its rate at calibration: once more", file=sys.stderr)
    return False


def cache_folder(spec: ModelSpec, workload: Workload, device: torch.device, dtype: str) -> Path:
    """Where the tables of a device are kept: below ``XDG_CACHE_HOME``, else ``~/.cache``."""
    dims = replace(spec.text, num_hidden_layers=1), spec.vision.with_layers(1)
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if cuda else cpu_name()
    versions = torch.__version__, transformers.__version__, torch.get_num_threads()
    key = dims, workload, where, versions, IMPORTANCE_ROWS  # the score is measured by its blocks
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "aim-efficiency" / f"{device.type}-{dtype}-{digest}"
