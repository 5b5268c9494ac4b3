"""aim-runtime validate: prediction against execution."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import (
    BudgetOption,
    EqualOption,
    FormatOption,
    LastLayerOption,
    PartOptions,
    PromptOptions,
    SchedulesOption,
    TextTokensOption,
)
from aim_cost.conventions.convention import EXECUTED
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import LastLayer
from aim_cost.render import Format, console, to_csv
from aim_cost.schedules.schedule import Schedule
from aim_cost.timing import load_calibration
from aim_runtime.cli.options import LoadOptions, RepeatsOption, with_baseline

if TYPE_CHECKING:
    from aim_runtime.validation.efficiency_request import TableRequest


@dataclass(frozen=True)
class _ShortPrompt(PromptOptions):
    text_tokens: TextTokensOption = 50


@dataclass(frozen=True)
class _MethodOptions:
    """Published methods, in place of schedules."""

    methods: Annotated[
        str | None,
        typer.Option(help="Names with commas, fastv:k=3:r=0.75, a file; all: those not named."),
    ] = None
    equal: EqualOption = None
    budget: BudgetOption = None

    def request(self, hardware: str | None, calibration: Path | None) -> "TableRequest | None":
        """What is asked for; None without methods. Raises: ScheduleError for a budget alone."""
        from aim_runtime.validation.efficiency_request import TableRequest

        if self.methods is not None:
            return TableRequest(
                self.methods, EXECUTED.name, self.equal, self.budget, hardware, calibration
            )
        if self.equal is not None or self.budget is not None:
            raise ScheduleError(
                "--equal and --budget", expected="--methods beside them", got="none", fix="Add it."
            )
        return None


@grouped
def validate(
    *,
    options: LoadOptions,
    prompt: _ShortPrompt,
    parts: PartOptions,
    schedule: SchedulesOption = None,
    methods: _MethodOptions,
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
    from aim_runtime.models.load import spec_of
    from aim_runtime.validation.named_methods import NamedMethods
    from aim_runtime.validation.suite import validation_schedules
    from aim_runtime.validation.table import validation_table
    from aim_runtime.validation.validate import validate as run_validate

    if plot is not None:
        from aim_cost.plots.style import suffix_of

        suffix_of(plot)  # refused before minutes of measuring
    workload = prompt.workload(4)
    asked = with_baseline(parts.all(schedule))
    request = methods.request(hardware, calibration)
    if request is not None:
        if asked:
            raise ScheduleError(
                "--methods",
                expected="no schedule beside it",
                got=", ".join(one.label() for one in asked[1:]),
                fix="Give one of the two.",
            )
        request.check(spec_of(options.model, options.layers, options.vision_layers), workload)
    loaded = options.load(workload, asked)
    chosen: list[Schedule] | NamedMethods
    if request is not None:
        chosen = NamedMethods.of(request, loaded.spec, workload, loaded.dtype)
    else:
        chosen = asked or validation_schedules(loaded.spec, workload)
    result = run_validate(
        loaded,
        workload,
        chosen,
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
