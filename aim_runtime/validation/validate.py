"""Prediction against execution: traces and FLOPs must be equal, times are compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track

from aim_cost.case import Estimate, estimate
from aim_cost.devices.hardware import HardwareProfile, load_hardware, to_row
from aim_cost.models.workload import Execution, Workload
from aim_cost.ops.op import PHASES
from aim_cost.render import console
from aim_cost.schedules.schedule import Schedule
from aim_cost.timing import Calibration
from aim_cost.units import show
from aim_runtime.kernels.calibrated import present_calibration
from aim_runtime.kernels.probe import speed_since
from aim_runtime.measurement.environment import environment
from aim_runtime.measurement.flops import count_flops
from aim_runtime.measurement.measure import measure
from aim_runtime.models.load import Loaded
from aim_runtime.prompts.inputs import sized_inputs
from aim_runtime.reduction.importance_kernel import scoring
from aim_runtime.validation.agreement import Row, summary


@dataclass(frozen=True)
class Validation:
    """What ``validate`` found.

    Args:
        title: model and workload in a line.
        hardware: the ceilings that the prediction used.
        rows: per schedule, the measured row joined with predicted and counted figures.
        environment: where it ran.
        device_speed: the device's GEMM rate around the runs over that of its calibration; None
            where the ceilings come from a datasheet.
    """

    title: str
    hardware: HardwareProfile
    rows: list[Row]
    environment: Row
    device_speed: float | None = None

    @property
    def summary(self) -> Row:
        return summary(self.rows)

    @property
    def ceilings(self) -> str:
        """The prediction's ceilings and their source, in a sentence."""
        peak = self.hardware.peak_flops_per_s(self.rows[0]["dtype"])
        bandwidth = self.hardware.memory_bandwidth_bytes_per_s
        source = self.hardware.peak.memory_bandwidth_bytes_per_s.source
        return (
            f"Ceilings of {self.hardware.name}: {show(peak, 'FLOP/s')}, "
            f"{show(bandwidth, 'B/s')} ({source})."
        )

    def to_dict(self) -> Row:
        """Everything as plain data, for JSON."""
        return {
            **self.summary,
            "device_speed": self.device_speed,
            "hardware": to_row(self.hardware),
            "environment": self.environment,
            "rows": self.rows,
        }


def validate(
    loaded: Loaded,
    workload: Workload,
    schedules: Schedule | str | Iterable[Schedule | str],
    hardware: str | None = None,
    calibration: Calibration | None = None,
    repeats: int = 5,
    video: np.ndarray | None = None,
    last_layer: str = "all",
) -> Validation:
    """Predict, count and time every schedule on the device that holds the model.

    Args:
        hardware: a profile's name or file; by default that of this device, with its calibration,
            which is measured first where none is known (80 s on a CPU, then kept).
        calibration: of ``hardware``; by default the shipped one that is nearest.
        repeats: timed runs of each schedule; the counting run before them warms up. Medians are
            compared.
        video: uint8 [frames, H, W, 3] instead of random pixels, for a LLaVA-OneVision.
        last_layer: of all schedules, as for ``patch``.
    """
    asked = Schedule.all_of(schedules)
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
        *(loaded, workload, asked),
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
    return Validation(title, profile, join(counts, measured), environment(), speed)


def check_counts(
    loaded: Loaded,
    workload: Workload,
    schedules: Sequence[Schedule],
    hardware: HardwareProfile,
    calibration: Calibration | None = None,
    video: np.ndarray | None = None,
    last_layer: str = "all",
) -> list[Row]:
    """Run each schedule once and compare its token trace and FLOPs, phase by phase, with estimate.

    Returns: a row per schedule: ``schedule``, ``traces_equal``, ``flops_equal``, ``counted.*``
    and ``predicted.*`` FLOPs, ``predicted.*.time_s``, and ``differences`` in words.
    """
    inputs = sized_inputs(loaded, workload, video=video)
    execution = Execution(dtype=loaded.dtype, scoring=scoring(loaded.device), last_layer=last_layer)
    rows = []
    for schedule in track(schedules, "counting", console=console(error=True), transient=True):
        predicted = estimate(
            *(loaded.spec, workload, schedule, hardware, execution), calibration=calibration
        )
        counted, tokens = count_flops(
            loaded,
            schedule,
            lambda: loaded.model(**inputs, use_cache=True, logits_to_keep=1),
            last_layer=last_layer,
        )
        row = _compared(predicted, counted)
        row["traces_equal"] = tokens == predicted.trace
        if not row["traces_equal"]:
            row["differences"].append(f"trace: predicted {predicted.trace}, ran {tokens}")
        rows.append(row)
    return rows


def _compared(predicted: Estimate, counted: dict[str, int]) -> Row:
    row: Row = {"schedule": predicted.schedule.label(), "differences": []}
    for name in PHASES:
        phase = predicted.phase(name)
        row[f"predicted.{name}.flops"] = phase.flops
        row[f"counted.{name}.flops"] = counted.get(name, 0)
        row[f"predicted.{name}.time_s"] = phase.time_s
        if phase.flops != counted.get(name, 0):
            row["differences"].append(
                f"{name}: predicted {phase.flops} FLOPs, counted {counted.get(name, 0)}"
            )
    row["flops_equal"] = not row["differences"]
    row["predicted.total.flops"] = predicted.flops
    row["counted.total.flops"] = sum(counted.values())
    row |= {f"predicted.{name}.time_s": predicted.time(name).time_s for name in ("vision", "llm")}
    ttft = predicted.ttft
    row |= {"predicted.ttft_s": ttft.time_s, "predicted.source": ttft.source}
    row |= {"predicted.ttft_low_s": ttft.low_s, "predicted.ttft_high_s": ttft.high_s}
    row["predicted.peak_memory_bytes"] = predicted.memory.peak_bytes
    return row


def join(counts: Sequence[Row], measured: Sequence[Row]) -> list[Row]:
    """Put the measured row of each schedule beside its counts.

    ``ttft_error`` is relative; ``speedup`` and ``predicted.speedup`` are over the first row.
    """
    by_schedule = {row["schedule"]: row for row in measured}
    first, first_predicted = measured[0].get("ttft_s"), counts[0]["predicted.ttft_s"]
    rows = []
    for count in counts:
        row = {**by_schedule[count["schedule"]], **count}
        clock = row.get("ttft_s")
        row["ttft_error"] = None if clock is None else row["predicted.ttft_s"] / clock - 1
        row["speedup"] = first / clock if first and clock else None
        row["predicted.speedup"] = first_predicted / row["predicted.ttft_s"]
        rows.append(row)
    return rows
