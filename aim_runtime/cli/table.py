"""aim-runtime table: the efficiency table of methods, run for real and predicted."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import BatchOption, CalibrationOption, MethodsOptions, PromptOptions
from aim_cost.render import console, to_csv
from aim_runtime.cli.options import (
    AttentionOption,
    LoadOptions,
    OutOption,
    RepeatsOption,
    ResumeOption,
    chosen_attention,
)


class TableFormat(StrEnum):
    """How the table is printed."""

    table = "table"
    markdown = "markdown"
    latex = "latex"
    json = "json"
    csv = "csv"


@grouped
def table(
    *,
    options: LoadOptions,
    prompt: PromptOptions,
    batch: BatchOption = 1,
    methods: MethodsOptions,
    hardware: Annotated[
        str | None,
        typer.Option(help="A profile whose predicted times stand beside the measured ones."),
    ] = None,
    calibration: CalibrationOption = None,
    new_tokens: Annotated[
        int, typer.Option(help="Tokens of the answer; the prefill gives the first.")
    ] = 32,
    repeats: RepeatsOption = 3,
    warmup: Annotated[
        int | None,
        typer.Option(
            help="Rounds before the clock; by default 2 on a GPU, on a CPU none beside the "
            "counting of FLOPs.",
            show_default=False,
        ),
    ] = None,
    attention: AttentionOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    form: Annotated[
        TableFormat, typer.Option("--format", help="How to print the table.")
    ] = TableFormat.table,
) -> None:
    """Print the efficiency table of methods: tokens, FLOPs, time, memory, run and predicted.

    Methods that do not run here are priced, and say why. Without --frames, --image-tokens and
    --image it is a video of 8 frames. --out gets the rows of what ran, as of measure.
    """
    from aim_runtime.models.load import spec_of
    from aim_runtime.validation.efficiency_request import TableRequest
    from aim_runtime.validation.efficiency_run import efficiency_table
    from aim_runtime.validation.efficiency_text import (
        efficiency_latex,
        efficiency_markdown,
        efficiency_report,
    )

    backend, workload = chosen_attention(attention), prompt.workload(8, batch)
    request = TableRequest(
        methods.methods,
        methods.conventions,
        equal=methods.equal,
        budget=methods.budget,
        hardware=hardware,
        calibration=calibration,
    )
    request.check(spec_of(options.model, options.layers, options.vision_layers), workload)
    result = efficiency_table(
        options.load(workload, []),
        workload,
        request,
        new_tokens=new_tokens,
        repeats=repeats,
        warmup=warmup,
        attention=backend,
        out=out,
        resume=resume,
    )
    if form is TableFormat.table:
        console().print(efficiency_report(result))
    elif form is TableFormat.markdown:
        print(efficiency_markdown(result))
    elif form is TableFormat.latex:
        print(efficiency_latex(result))
    elif form is TableFormat.csv:
        print(to_csv(result.to_rows()))
    else:
        print(json.dumps(result.to_dict(), indent=2))
