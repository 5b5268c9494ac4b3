"""A campaign's rows beside several predictions, those a fit may see apart from those held out.

No prefill that was measured goes into any prediction: the own calibration is fitted to the kernel
tables of the campaign alone.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aim_cost.devices.hardware import HardwareProfile, load_hardware
from aim_cost.errors import ProfileError
from aim_cost.files import write_atomically
from aim_cost.models.model import load_model_spec
from aim_cost.render import Row
from aim_cost.timing.calibration import Calibration
from aim_cost.timing.fit.calibrate import fit_calibration
from aim_runtime.campaigns.figures import Span
from aim_runtime.campaigns.file import CAMPAIGN, CampaignFile, origin_of
from aim_runtime.campaigns.prediction import Prediction, Way, predict, priced_by
from aim_runtime.campaigns.predictions_file import PREDICTIONS, PredictionsFile, utc_now
from aim_runtime.campaigns.record import KernelTables, Status
from aim_runtime.campaigns.steps import held_out_schedules
from aim_runtime.errors import MeasurementError
from aim_runtime.kernels.microbench import PROFILE_FILE
from aim_runtime.measurement.decode import Decoding
from aim_runtime.measurement.measurement import Measurement
from aim_runtime.measurement.origin import Origin
from aim_runtime.measurement.row_key import RowKey
from aim_runtime.seams import release_keeps_tower_states


@dataclass(frozen=True)
class Compared:
    """A prediction beside the clock: TTFT, or the LLM's time where the way knows no other."""

    span: Span
    measured_s: float

    @property
    def error(self) -> float:
        """Relative to the clock; negative where the prediction is too fast."""
        return self.span.time_s / self.measured_s - 1


@dataclass(frozen=True)
class Joined:
    """A measured prefill and what was predicted for it.

    Args:
        measured, ttft_s: the prefill and its time to first token.
        origin: the step that it belongs to.
        held_out: whether no fit may see its schedule.
        beforehand: whether its prediction is older than its step; None where the model prices no
            such execution.
        throttled: whether the GPU held its clock down before or after the step.
        flops, peak_memory_bytes: predicted; None without a prediction.
    """

    measured: Measurement
    ttft_s: float
    origin: Origin
    held_out: bool
    beforehand: bool | None
    throttled: bool
    compared: Mapping[Way, Compared]
    flops: int | None = None
    peak_memory_bytes: int | None = None

    @property
    def key(self) -> RowKey:
        return self.measured.key

    @property
    def best(self) -> Compared | None:
        """The last of the ways, the nearest to the device; None where nothing predicts."""
        return next((self.compared[way] for way in reversed(Way) if way in self.compared), None)

    def to_row(self) -> Row:
        predictions = {
            way.value: {**vars(found.span), "measured_s": found.measured_s, "error": found.error}
            for way, found in self.compared.items()
        }
        return {
            **self.measured.to_row(),
            "held_out": self.held_out,
            "beforehand": self.beforehand,
            "throttled": self.throttled,
            "predictions": predictions,
            "predicted": {"flops": self.flops, "peak_memory_bytes": self.peak_memory_bytes},
        }


@dataclass(frozen=True)
class CampaignReport:
    """What a folder holds.

    Args:
        rows: timed prefills, with their predictions.
        decode: what was decoded.
        failed: what failed: the label of a step or a row, and its error in a line.
        untimed: rows that an interrupt left before their first timed run.
        refused: rows without a prediction from before they were timed.
        unfitted: kernel tables that no calibration could be fitted to, and why.
        is_rehearsal: whether no device ran and the clock was a model.
    """

    rows: list[Joined]
    decode: list[Decoding]
    failed: list[tuple[str, str]]
    untimed: int
    refused: int
    unfitted: list[str]
    is_rehearsal: bool


Tables = Mapping[tuple[str, str], tuple[HardwareProfile, Calibration]]
"""Own calibrations by model and attention backend."""


def read_report(folder: Path, *, afterwards: bool = False) -> CampaignReport:
    """Read a campaign and hold its rows against the predictions of its folder.

    A row is compared only with predictions that were written before its step began: others are
    counted as ``refused``. Own kernels predict the rows of their own model and backend.

    Args: afterwards, predict now what was not predicted beforehand; such rows say so.
    Raises: MeasurementError without a campaign or without rows.
    """
    file, predictions = _opened(folder), PredictionsFile(folder / PREDICTIONS)
    failed = [
        (record.step.place, record.error_line)
        for record in file.steps
        if record.status is Status.FAILED
    ]
    failed += [
        (f"{file.steps[origin_of(row).step_number].step.place}, {row.key.run.schedule.label()}", e)
        for row in file.rows
        if (e := row.error)
    ]
    good = [row for row in file.rows if not row.error]
    timed = [row for row in good if isinstance(row, Measurement) and row.ttft_s is not None]
    decode = [row for row in good if isinstance(row, Decoding) and row.tpot_s is not None]
    if not timed and not decode:
        raise MeasurementError(
            str(file.path),
            expected="rows that were timed",
            got=f"{len(failed)} that failed, {len(good)} that were not timed yet",
            fix="Run aim-runtime campaign --minutes M --out DIR.",
        )
    tables, unfitted = _own_calibrations(file)
    rows = [_joined(row, file, predictions, tables, afterwards) for row in timed]
    return CampaignReport(
        rows=rows,
        decode=decode,
        failed=failed,
        untimed=len(good) - len(timed) - len(decode),
        refused=sum(row.beforehand is False for row in rows),
        unfitted=unfitted,
        is_rehearsal=file.is_rehearsal,
    )


def _opened(folder: Path) -> CampaignFile:
    """The campaign of a folder. Raises: MeasurementError where there is none."""
    path = folder / CAMPAIGN
    if not path.is_file():
        raise MeasurementError(
            str(path),
            expected="what aim-runtime campaign wrote",
            got="no such file" if folder.is_dir() else "no such folder",
            fix="Give the folder that was its --out.",
        )
    return CampaignFile(folder)


def _joined(
    row: Measurement,
    file: CampaignFile,
    predictions: PredictionsFile,
    tables: Tables,
    afterwards: bool,
) -> Joined:
    run, origin = row.key.run, origin_of(row)
    assert row.ttft_s is not None
    record = file.steps[origin.step_number]
    joined = Joined(
        measured=row,
        ttft_s=row.ttft_s,
        origin=origin,
        held_out=run.schedule in held_out_schedules(run.layers),
        beforehand=None,
        throttled=record.throttled,
        compared={},
    )
    if not run.execution.priced:
        return joined
    found = predictions.get(run)
    beforehand = found is not None and found.predicted_at <= origin.begun_at
    if not beforehand:
        found = _predict_now(row.key, record.profile) if afterwards else None
    if found is None or found.figures is None:
        return replace(joined, beforehand=False)
    compared = {}
    for way in Way:
        own = tables.get((run.model, row.key.attention_backend or ""))
        span = _own_span(row.key, own) if way is Way.own else found.span(way)
        clock_s = row.phase_s["llm"] if way.of_llm else row.ttft_s
        if span is not None and clock_s is not None:
            compared[way] = Compared(span, clock_s)
    older = origin.transformers is not None and release_keeps_tower_states(origin.transformers)
    return replace(
        joined,
        beforehand=beforehand,
        compared=compared,
        flops=found.figures.flops,
        peak_memory_bytes=found.figures.peak_bytes(keeps_tower_states=older),
    )


def _predict_now(key: RowKey, profile: str) -> Prediction:
    spec, hardware = load_model_spec(key.run.model), load_hardware(profile)
    return predict(spec, key.run, hardware, predicted_at=utc_now(), commit=None)


def _own_span(key: RowKey, own: tuple[HardwareProfile, Calibration] | None) -> Span | None:
    if own is None:
        return None
    hardware, calibration = own
    return priced_by(calibration, load_model_spec(key.run.model), key.run, hardware).ttft


def _own_calibrations(file: CampaignFile) -> tuple[Tables, list[str]]:
    """A calibration of each kernel table, and why the others have none."""
    found, unfitted = {}, []
    for kernels in file.kernels:
        dtype = file.steps[kernels.step_number].dtype
        with tempfile.TemporaryDirectory() as name:
            _write_files(kernels, Path(name))
            try:
                hardware = load_hardware(Path(name) / PROFILE_FILE)
                calibration = fit_calibration(name, hardware, dtype, source="the campaign's tables")
            except (ProfileError, ValueError) as error:  # too few sizes for a fit
                unfitted.append(f"{kernels.model}: {' '.join(str(error).split())}")
                continue
        found[kernels.model, kernels.attention_backend] = hardware, calibration
    return found, unfitted


def write_tables(folder: Path, out: Path) -> list[Path]:
    """Write the kernel tables of a campaign, with their profile, a folder each below ``out``.

    Returns: the folders, named after model and attention backend.
    Raises: MeasurementError for a rehearsal, whose tables a calibration must not be made of; and
        where there is no campaign.
    """
    file, folders = _opened(folder), []
    if file.is_rehearsal:
        raise MeasurementError(
            f"{file.path}: kernel tables",
            expected="those of a device",
            got=f"a rehearsal, the model's own times with noise ({file.device_name})",
            fix="Measure on a GPU: run aim-runtime campaign without --rehearsal.",
        )
    for kernels in file.kernels:
        folders.append(out / f"{kernels.model}-{kernels.attention_backend}")
        _write_files(kernels, folders[-1])
    return folders


def _write_files(kernels: KernelTables, folder: Path) -> None:
    for name, text in kernels.files.items():
        write_atomically(folder / Path(name).name, text.encode())
