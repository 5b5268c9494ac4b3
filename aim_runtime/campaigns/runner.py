"""Runner: what a campaign needs of a device; and the real one."""

import gc
import tempfile
import time
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
import transformers

from aim_cost.devices.hardware import load_hardware
from aim_runtime.campaigns.setting import Setting
from aim_runtime.campaigns.step import DecodeStep, KernelStep, PrefillStep
from aim_runtime.kernels.device import present_hardware
from aim_runtime.kernels.microbench import microbench
from aim_runtime.measurement.attention_backend import AttentionBackend
from aim_runtime.measurement.decode import Decoding, measure_decode
from aim_runtime.measurement.environment import Environment, GpuState, environment, gpu_state
from aim_runtime.measurement.measure import measure
from aim_runtime.measurement.place import device_name
from aim_runtime.measurement.row_file import RowStore
from aim_runtime.models.load import Loaded, load, place_of
from aim_runtime.reduction.importance_kernel import scoring
from aim_runtime.seams import release_keeps_tower_states


class Runner(Protocol):
    """A device that steps run on, and its clock."""

    setting: Setting

    def now(self) -> float:
        """Seconds that only go forward."""
        ...

    def environment(self) -> Environment:
        """What steps run in."""
        ...

    def state(self) -> GpuState: ...

    def prefill(self, step: PrefillStep, store: RowStore) -> None:
        """Time a step; its rows are in ``store`` after each round."""
        ...

    def decode(self, step: DecodeStep) -> list[Decoding]:
        """Decode after each schedule of a step."""
        ...

    def kernels(self, step: KernelStep, seconds: float) -> dict[str, str]:
        """The text of each file that ``microbench`` writes, tables as CSV."""
        ...

    def free(self) -> None:
        """Give back what a step that failed has left. Raises: an error of a lost device."""
        ...


class DeviceRunner:
    """The present device; one model with random weights is there at a time.

    Args: hardware, a profile's name or file; found by the name of the GPU without it.
    """

    def __init__(
        self,
        device: str | None = None,
        dtype: str = "bfloat16",
        *,
        hardware: str | None = None,
        attention: AttentionBackend | None = None,
    ) -> None:
        self._device = place_of(device)
        self._name: str | None = None
        self._loaded: Loaded | None = None
        self.setting = Setting(
            hardware=load_hardware(hardware) if hardware else present_hardware(self._device, dtype),
            device_name=device_name(self._device),
            dtype=dtype,
            scoring=scoring(self._device),
            attention=attention,
            device=self._device,
            keeps_tower_states=release_keeps_tower_states(transformers.__version__),
        )

    def now(self) -> float:
        return time.monotonic()

    def environment(self) -> Environment:
        return environment()

    def state(self) -> GpuState:
        return gpu_state()

    def prefill(self, step: PrefillStep, store: RowStore) -> None:
        measure(
            self._model(step.model),
            step.workload,
            step.schedules,
            repeats=step.rounds,
            warmup=1,
            out=store,
            execution=step.execution,
            attention=self.setting.attention,
            visit=step.visit,
            refuse=False,
        )

    def decode(self, step: DecodeStep) -> list[Decoding]:
        return measure_decode(
            self._model(step.model),
            step.workload,
            step.schedules,
            new_tokens=step.new_tokens,
            repeats=step.rounds,
            attention=self.setting.backend(step),
        )

    def kernels(self, step: KernelStep, seconds: float) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            files = microbench(
                step.spec,
                step.workload,
                Path(folder),
                self._device,
                self.setting.dtype,
                seconds,
                self.setting.attention,
            )
            return dict(_as_text(path) for path in files)

    def free(self) -> None:
        self._loaded = self._name = None
        gc.collect()  # modules and hooks refer to each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.synchronize(self._device)

    def _model(self, name: str) -> Loaded:
        if self._loaded is None or self._name != name:
            self.free()  # before the next model is made
            self._loaded = load(name, self._device, self.setting.dtype, random_weights=True)
            self._name = name
        return self._loaded


def _as_text(path: Path) -> tuple[str, str]:
    if path.suffix == ".parquet":
        return path.with_suffix(".csv").name, pd.read_parquet(path).to_csv(index=False)
    return path.name, path.read_text(encoding="utf-8")
