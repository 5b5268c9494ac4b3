"""aim-runtime campaign: rows of a GPU against the model, within a budget of minutes."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import DtypeOption, FormatOption
from aim_cost.devices.hardware import load_hardware
from aim_cost.render import Format, Row, console, print_rows, say, table, wrapped
from aim_runtime.cli.options import AttentionOption, DeviceOption, chosen_attention

if TYPE_CHECKING:
    from aim_runtime.campaigns.plan import Planned
    from aim_runtime.campaigns.record import StepRecord
    from aim_runtime.campaigns.runner import DeviceRunner, Runner
    from aim_runtime.campaigns.setting import Setting
    from aim_runtime.campaigns.stand_in import StandIn

_INTERRUPTED = 130  # the exit status of a command that Ctrl-C has ended


@dataclass(frozen=True)
class DeviceOptions:
    """The device of a campaign and its clock."""

    hardware: Annotated[
        str | None,
        typer.Option(help="A profile instead of that of the GPU here; what a --dry-run is for."),
    ] = None
    attention: AttentionOption = None
    dtype: DtypeOption = "bfloat16"
    device: DeviceOption = None

    def runner(self) -> "DeviceRunner":
        """The device that is here. Raises: an AimError where there is none such."""
        from aim_runtime.campaigns.runner import DeviceRunner

        backend = chosen_attention(self.attention)
        return DeviceRunner(self.device, self.dtype, hardware=self.hardware, attention=backend)

    def stand_in(self) -> "StandIn":
        """The clock of a rehearsal. Raises: MeasurementError where no calibration prices it."""
        from aim_runtime.campaigns.stand_in import StandIn

        profile = load_hardware(self.hardware or "h100-sxm")
        return StandIn(profile, self.dtype, chosen_attention(self.attention))

    def presumed(self, device_name: str | None) -> "Setting":
        """The GPU that is named by its profile, or else the one that is here."""
        from aim_runtime.campaigns.setting import Setting

        if self.hardware is None:
            self.require_gpu("--hardware NAME, the GPU that is planned for")
            return self.runner().setting
        backend = chosen_attention(self.attention)
        return Setting.presumed(load_hardware(self.hardware), self.dtype, backend, device_name)

    def require_gpu(self, instead: str) -> None:
        """Raises: MeasurementError where the campaign would run on a CPU, for days."""
        from aim_runtime.errors import MeasurementError
        from aim_runtime.models.load import place_of

        place = place_of(self.device)
        if place.type != "cuda":
            raise MeasurementError(
                "device", expected="a CUDA GPU", got=place.type, fix=f"Use one, or add {instead}."
            )


@grouped
def campaign(
    *,
    minutes: Annotated[float, typer.Option(min=0.1, help="When to end, at the latest.")],
    out: Annotated[
        Path | None,
        typer.Option(help="A folder: campaign.json and predictions.json. What is there is kept."),
    ] = None,
    options: DeviceOptions,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the steps, write the predictions, time nothing."),
    ] = False,
    rehearsal: Annotated[
        bool,
        typer.Option(
            "--rehearsal", help="No GPU: the clock is the model of --hardware with noise."
        ),
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try what failed once more.")] = False,
    form: FormatOption = Format.table,
) -> None:
    """Time LLaVA-OneVision 7B and 0.5B on this GPU: prefills, CUDA graphs, kernels, decoding.

    What matters most runs first; a step begins only if its predicted time fits what is left of the
    minutes. Run the same command again to go on. Ctrl-C loses nothing that was measured.
    """
    begun = time.monotonic()  # the imports belong to the minutes
    from aim_runtime.campaigns.campaign import run_campaign
    from aim_runtime.campaigns.record import Status
    from aim_runtime.campaigns.steps import default_steps
    from aim_runtime.errors import MeasurementError

    chosen_attention(options.attention)  # a wrong name is refused before anything else
    if dry_run:
        _print_plan(_planned(minutes, out, options, retry), minutes, form)
        return
    if out is None:
        raise MeasurementError(
            "--out", expected="a folder for the campaign", got="nothing", fix="Add --out DIR."
        )
    if not rehearsal:
        options.require_gpu("--rehearsal, which needs none")
    runner: Runner = options.stand_in() if rehearsal else options.runner()
    steps = default_steps()
    try:
        start = None if rehearsal else begun
        file = run_campaign(steps, out, runner, minutes=minutes, begun=start, retry=retry)
    except KeyboardInterrupt:
        say(f"interrupted: {out} holds what was measured; the same command goes on")
        sys.exit(_INTERRUPTED)
    if form is not Format.table:
        print_rows([_record(record) for record in file.steps], form)
        return
    failed = sum(record.status is Status.FAILED for record in file.steps)
    failed_rows = sum(bool(row.error) for row in file.rows)
    counts = f"{len(file.rows)} rows, {failed_rows} of them failed; {failed} failed steps"
    print(wrapped(f"{file.path}: {counts}"))


def _planned(
    minutes: float, out: Path | None, options: DeviceOptions, retry: bool
) -> "list[Planned]":
    """The steps; with ``out`` those that are left there, and their predictions are written."""
    from aim_runtime.campaigns.campaign import agenda_of
    from aim_runtime.campaigns.file import CampaignFile
    from aim_runtime.campaigns.plan import plan
    from aim_runtime.campaigns.predictions_file import PREDICTIONS, PredictionsFile
    from aim_runtime.campaigns.steps import default_steps
    from aim_runtime.measurement.environment import environment

    file = CampaignFile(out) if out else None
    setting = options.presumed(file.device_name if file else None)
    steps = default_steps()
    if out:
        path = out / PREDICTIONS
        added = PredictionsFile(path).add(steps, setting, environment().commit)
        say(f"{path}: {added} predictions added; commit the file before a run")
    else:
        say("no predictions were written: give --out DIR")
    return plan(agenda_of(steps, file, setting, retry=retry), 60 * minutes)


def _print_plan(planned: "list[Planned]", minutes: float, form: Format) -> None:
    if form is not Format.table:
        print_rows([one.to_row() for one in planned], form)
        return
    lines, total = [], 0.0
    for one in planned:
        seconds = round(one.seconds, 1)
        total += seconds
        rows_of = str(one.step.row_count) if one.step.row_count else "tables"
        label = one.step.label.removeprefix("llava-onevision-qwen2-")
        lines.append((label, rows_of, f"{seconds:.0f}", f"{total:.0f}"))
    note = f"Expected, of {60 * minutes:.0f} s: prefills by the model with a reserve, plans of "
    note += "attention, loading and captures by figures that others report."
    console().print(table("What a campaign runs", ("step", "rows", "s", "sum"), lines, note))


def _record(record: "StepRecord") -> Row:
    """The printed line of a step that ran: what it did, and how it ended."""
    return {
        **record.step.to_row(),
        "status": record.status.value,
        "seconds": record.seconds,
        "predicted_seconds": record.predicted_seconds,
        "error": record.error,
        "attention_backend": record.attention_backend,
        "begun_at": record.begun_at,
    }
