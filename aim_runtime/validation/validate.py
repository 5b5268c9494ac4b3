"""Prediction against execution: traces and FLOPs must be equal, times are compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from aim_cost.devices.hardware import HardwareProfile, load_hardware, to_row
from aim_cost.models.workload import LastLayer, Workload
from aim_cost.render import Row
from aim_cost.schedules.schedule import Schedule
from aim_cost.timing import Calibration
from aim_cost.units import show
from aim_runtime.kernels.calibrated import present_calibration
from aim_runtime.kernels.probe import speed_since
from aim_runtime.measurement.clock import recorder_for
from aim_runtime.measurement.environment import Environment, environment
from aim_runtime.measurement.measure import measure
from aim_runtime.models.load import Loaded
from aim_runtime.validation.agreement import Agreement
from aim_runtime.validation.comparison import Comparison, join
from aim_runtime.validation.counts import check_counts
from aim_runtime.validation.named_methods import NamedMethods


@dataclass(frozen=True)
class Validation:
    """What ``validate`` found.

    Args:
        title: model and workload in a line.
        hardware: the ceilings that the prediction used.
        rows: one for each schedule.
        environment: where it ran.
        device_speed: the device's GEMM rate around the runs over that of its calibration; None
            where the ceilings come from a datasheet.
        left_out: why a method that was asked for has no row, by its name.
    """

    title: str
    hardware: HardwareProfile
    rows: tuple[Comparison, ...]
    environment: Environment
    device_speed: float | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def agreement(self) -> Agreement:
        """Whether all is equal, and how far the times are off."""
        return Agreement.of(self.rows)

    @property
    def passed(self) -> bool:
        return self.agreement.passed

    @property
    def ceilings(self) -> str:
        """The prediction's ceilings and their source, in a sentence."""
        peak = self.hardware.peak_flops_per_s(self.rows[0].counts.run.dtype)
        bandwidth = self.hardware.memory_bandwidth_bytes_per_s
        source = self.hardware.peak.memory_bandwidth_bytes_per_s.source
        return (
            f"Ceilings of {self.hardware.name}: {show(peak, 'FLOP/s')}, "
            f"{show(bandwidth, 'B/s')} ({source})."
        )

    def to_rows(self) -> list[Row]:
        """A flat row for each schedule; speed-ups are over the first."""
        return [row.to_row(self.rows[0]) for row in self.rows]

    def to_dict(self) -> Row:
        """Everything as plain data, for JSON."""
        return {
            **self.agreement.to_row(),
            "device_speed": self.device_speed,
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
            "hardware": to_row(self.hardware),
            "environment": self.environment.to_row(),
            "rows": self.to_rows(),
        }


def validate(
    loaded: Loaded,
    workload: Workload,
    schedules: Schedule | str | Iterable[Schedule | str] | NamedMethods,
    hardware: str | None = None,
    calibration: Calibration | None = None,
    repeats: int = 5,
    video: np.ndarray | None = None,
    last_layer: LastLayer = LastLayer.ALL,
) -> Validation:
    """Predict every schedule, run it, and time it on the device that holds the model.

    Args:
        schedules: or methods, whose names the rows then have.
        hardware: a profile's name or file; by default that of this device, with its calibration,
            which is measured first where none is known (80 s on a CPU, then kept).
        calibration: of ``hardware``; by default the shipped one that is nearest.
        repeats: timed runs of each schedule; the counting run before them warms up. Medians are
            compared.
        video: uint8 [frames, H, W, 3] instead of random pixels, for a LLaVA-OneVision.
        last_layer: of all schedules, as for ``patch``.
    """
    recorder_for(loaded.device)  # a device without a clock is refused before anything is counted
    if isinstance(schedules, NamedMethods):
        asked, names, left_out = tuple(schedules.names), schedules.names, schedules.left_out
    else:
        asked, names, left_out = Schedule.all_of(schedules), {}, {}
    for schedule in asked:  # one that does not fit is refused before anything is measured
        schedule.resolve(loaded.spec, workload)
    if hardware:
        profile = load_hardware(hardware)
    else:
        profile, calibration = present_calibration(
            loaded.spec, workload, loaded.device, loaded.dtype
        )
    counts = check_counts(loaded, workload, asked, profile, calibration, video, last_layer)
    before = speed_since(profile, loaded.device, loaded.dtype)
    measured = measure(
        loaded,
        workload,
        asked,
        repeats=repeats,
        warmup=0,
        video=video,
        last_layer=last_layer,
    )
    after = speed_since(profile, loaded.device, loaded.dtype)
    speed = (before + after) / 2 if before and after else None
    title = (
        f"{loaded.spec.name}, {loaded.spec.text.num_hidden_layers} decoder and "
        f"{loaded.spec.vision.num_hidden_layers} vision layers, "
        f"{workload.label()} + {workload.text_tokens} text tokens, {loaded.dtype}"
    )
    rows = tuple(join(counts, measured, names))
    return Validation(title, profile, rows, environment(), speed, left_out)
