"""aim-runtime validate: prediction against execution."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import (
    FormatOption,
    LastLayerOption,
    PartOptions,
    PromptOptions,
    SchedulesOption,
    TextTokensOption,
)
from aim_cost.models.workload import LastLayer
from aim_cost.render import Format, console, to_csv
from aim_cost.timing import load_calibration
from aim_runtime.cli.options import LoadOptions, RepeatsOption, with_baseline


@dataclass(frozen=True)
class _ShortPrompt(PromptOptions):
    text_tokens: TextTokensOption = 50


@grouped
def validate(
    *,
    options: LoadOptions,
    prompt: _ShortPrompt,
    parts: PartOptions,
    schedule: SchedulesOption = None,
    last_layer: LastLayerOption = LastLayer.ALL,
    hardware: Annotated[
        str | None,
        typer.Option(help="A profile instead of this device's, which is measured where unknown."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A calibration of --hardware (aim-cost calibrate).")
    ] = None,
    repeats: RepeatsOption = 5,
    plot: Annotated[Path | None, typer.Option(help="Write a picture: .png, .pdf or .svg.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Predict and run: traces and FLOPs must be equal (else exit status 1), times are compared.

    Without --frames, --image-tokens and --image it is a video of 4 frames.
    """
    from aim_runtime.validation.suite import validation_schedules
    from aim_runtime.validation.table import validation_table
    from aim_runtime.validation.validate import validate as run_validate

    if plot is not None:
        from aim_cost.plots.style import suffix_of

        suffix_of(plot)  # refused before minutes of measuring
    workload = prompt.workload(4)
    asked = with_baseline(parts.all(schedule))
    loaded = options.load(workload, asked)
    result = run_validate(
        loaded,
        workload,
        asked or validation_schedules(loaded.spec, workload),
        hardware=hardware,
        calibration=load_calibration(calibration) if calibration else None,
        repeats=repeats,
        last_layer=last_layer,
    )
    if plot is not None:
        from aim_runtime.validation.plots import validation_plot

        validation_plot(result.rows, plot, result.title)
    if form is Format.table:
        console().print(validation_table(result))
    elif form is Format.csv:
        print(to_csv(result.to_rows()))
    else:
        print(json.dumps(result.to_dict(), indent=2))
    sys.exit(0 if result.passed else 1)
