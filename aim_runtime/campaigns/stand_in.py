"""StandIn: a device that is not there. Its clock is the model with noise, and it never waits.

It rehearses a campaign: everything but the kernels is what a GPU would see.
"""

import random
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import transformers

from aim_cost.devices.hardware import HardwareProfile
from aim_cost.ops.op import PHASES
from aim_cost.render import Row
from aim_cost.timing.calibration import Calibration
from aim_cost.timing.elementwise import Dispatch, figures_of
from aim_cost.timing.fit.table import table_name
from aim_cost.timing.form import Ceilings
from aim_cost.timing.prefill_time import nearest_calibration
from aim_cost.units import dtype_bytes
from aim_runtime.campaigns.cost import Costs, Warmth
from aim_runtime.campaigns.setting import Setting
from aim_runtime.campaigns.step import DecodeStep, KernelStep, PrefillStep, Step
from aim_runtime.errors import MeasurementError
from aim_runtime.kernels.case import Case, Stream
from aim_runtime.kernels.elementwise import elementwise_cases
from aim_runtime.kernels.microbench import PROFILE_FILE
from aim_runtime.kernels.products import attention_cases, gemm_cases
from aim_runtime.kernels.profile_file import profile_yaml
from aim_runtime.kernels.sizes import Sizes
from aim_runtime.measurement.attention_backend import AttentionBackend
from aim_runtime.measurement.decode import Decoding
from aim_runtime.measurement.environment import Environment, GpuState, environment
from aim_runtime.measurement.origin import STAND_IN
from aim_runtime.measurement.rounds import Rounds
from aim_runtime.measurement.row_file import RowStore
from aim_runtime.measurement.row_key import RowKey
from aim_runtime.measurement.run_kind import RunKind
from aim_runtime.measurement.timed_run import WHOLE, TimedRun
from aim_runtime.seams import release_keeps_tower_states

Tick = Callable[[float], None]


class StandIn:
    """A Runner for hardware that is not here. Its rows say that they are of a rehearsal.

    Args:
        seed: of the noise.
        noise: standard deviation of the logarithm of each time.
        on_tick: called with the seconds of the clock whenever they have grown; what it raises
            leaves the measurement as an error or an interrupt of the device would.
    Raises: MeasurementError for hardware that no calibration prices.
    """

    def __init__(
        self,
        hardware: HardwareProfile,
        dtype: str = "bfloat16",
        attention: AttentionBackend | None = None,
        *,
        seed: int = 0,
        noise: float = 0.02,
        on_tick: Tick | None = None,
    ) -> None:
        calibration = nearest_calibration(hardware)
        if calibration is None:
            raise MeasurementError(
                "--hardware",
                expected="a GPU, for whose kernels there is a calibration",
                got=hardware.name,
                fix="Rehearse with --hardware h100-sxm.",
            )
        self.setting = replace(
            Setting.presumed(hardware, dtype, attention, f"{STAND_IN}{hardware.name}"),
            keeps_tower_states=release_keeps_tower_states(transformers.__version__),
            rehearsal=True,
        )
        self._calibration = calibration
        self._random, self._noise = random.Random(seed), noise
        self._on_tick = on_tick
        self._seconds = 0.0
        self.costs = Costs(self.setting)
        self._warmth = Warmth()

    def now(self) -> float:
        return self._seconds

    def tick(self, seconds: float) -> float:
        """Let about so many seconds pass. Returns: how many."""
        seconds *= float(np.exp(self._random.gauss(0.0, self._noise)))
        self._seconds += seconds
        if self._on_tick is not None:
            self._on_tick(self._seconds)
        return seconds

    def environment(self) -> Environment:
        return replace(environment(), gpu=self.setting.device_name, rehearsal=True)

    def state(self) -> GpuState:
        return GpuState(1980.0, 45.0, 0)

    def free(self) -> None:
        self._warmth = replace(self._warmth, model=None)

    def prefill(self, step: PrefillStep, store: RowStore) -> None:
        self._prepare(step)
        runs = [_Run(self, step, key) for key in self.setting.row_keys(step)]
        Rounds(runs, store, repeats=step.rounds, warmup=1).run()

    def decode(self, step: DecodeStep) -> list[Decoding]:
        self._prepare(step)
        rows = []
        for schedule, key in zip(step.schedules, self.setting.row_keys(step), strict=True):
            seconds = self.costs.decode_s(step, schedule)
            times_s = [self.tick(seconds) / step.new_tokens for _ in range(1 + step.rounds)][1:]
            cached = self.costs.priced(step.model, key.run).tokens_per_layer
            rows.append(Decoding.timed(key, step.new_tokens, times_s, cached))
        return rows

    def kernels(self, step: KernelStep, seconds: float) -> dict[str, str]:
        self._prepare(step)
        self.tick(seconds)
        hardware, dtype = self.setting.hardware, self.setting.dtype
        width, sizes = dtype_bytes(dtype), Sizes.of(step.spec, step.workload)
        cases = gemm_cases(step.spec, sizes, width) + attention_cases(step.spec, sizes, width)
        cases += elementwise_cases(step.spec, sizes, width)
        tables: dict[str, list[Row]] = {"dispatch": _dispatch_rows(self._calibration.dispatch)}
        for case in cases:
            time_s = _case_s(case, self._calibration, Ceilings.of(hardware, dtype), width)
            time_s *= float(np.exp(self._random.gauss(0.0, self._noise)))
            tables.setdefault(case.table, []).append(case.to_row(time_s, repeats=5))
        files = {PROFILE_FILE: profile_yaml(hardware)}
        for name, rows in tables.items():
            file = f"{table_name(hardware.name, name, dtype)}.csv"
            files[file] = pd.DataFrame(rows).to_csv(index=False)
        return files

    def _prepare(self, step: Step) -> None:
        self.tick(self.costs.before_s(step, self._warmth))
        self._warmth = self.costs.after(step, self._warmth)


class _Run(TimedRun):
    def __init__(self, device: StandIn, step: PrefillStep, key: RowKey) -> None:
        super().__init__(key)
        self._device, self._step = device, step
        self._figures = device.costs.priced(step.model, key.run)

    def _sample(self) -> dict[str, float]:
        figures, run, device = self._figures, self.key.run, self._device
        self._tokens = figures.tokens_per_layer
        whole_s = figures.ttft.time_s
        if run.execution is RunKind.CUDA_GRAPH:
            return {WHOLE: device.tick(whole_s)}
        if run.execution is RunKind.MASKED:
            whole_s = device.costs.masked_s(self._step, run.schedule)
        self._peak_bytes = device.costs.peak_bytes(figures)
        spent_s = device.tick(whole_s)
        parts = {name: figures.times[name].time_s for name in PHASES}
        scale = spent_s / sum(parts.values())
        return {name: scale * seconds for name, seconds in parts.items()}


def _case_s(case: Case, calibration: Calibration, ceilings: Ceilings, width: int) -> float:
    """Seconds of a kernel by a calibration."""
    kind, bytes_per_s = case.kind, ceilings.elements_per_s * width
    if isinstance(kind, Stream):
        found = figures_of(calibration.elementwise, kind.kind)
        start_s = found.start_s or calibration.dispatch.launch_s.value * found.kernels
        moved = kind.bytes * found.traffic
        return float(kind.parts * start_s + moved / (found.efficiency * bytes_per_s))
    fitted = calibration.kernels.get(case.table)
    if fitted is None:  # no law was fitted to such products on this device: a roofline
        return max(case.flops / ceilings.flops_per_s, case.moved_bytes / bytes_per_s)
    return float(fitted.model.time_s(ceilings, tuple(np.array([float(d)]) for d in kind.dims))[0])


def _dispatch_rows(dispatch: Dispatch) -> list[Row]:
    rows = []
    for field in fields(Dispatch):
        value = getattr(dispatch, field.name)
        times = {"latency_ms": value.value, "low_ms": value.low, "high_ms": value.high}
        rows.append({"kind": field.name, **{name: 1e3 * s for name, s in times.items()}})
    return rows
