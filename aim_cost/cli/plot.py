"""aim-cost plot."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand

from aim_cost.case import Case
from aim_cost.checks import one_of
from aim_cost.cli.groups import grouped
from aim_cost.cli.options import (
    AllPartOptions,
    BatchOption,
    DtypeOption,
    ExecutionOption,
    ModelOption,
    SchedulesOption,
    TextTokensOption,
    VideoFramesOption,
)
from aim_cost.errors import SpecError
from aim_cost.models.workload import Execution, Workload
from aim_cost.render import console, say
from aim_cost.schedules.schedule import Schedule

_AIM = Schedule.parse("merge 0.25, prune linear:14:22")


class PlotCommand(TyperCommand):
    """``aim-cost plot``, whose help names the plots: only then are they imported."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from aim_cost.plots import PLOTS

        for param in self.params:
            if isinstance(param, TyperArgument) and param.name == "kind":
                param.help = "; ".join(f"{name}: {plot.shows}" for name, plot in PLOTS.items())
        super().format_help(ctx, formatter)


@grouped
def plot(
    *,
    kind: Annotated[str, typer.Argument()],
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .pdf or .svg.")],
    model: ModelOption = "llava-onevision-qwen2-7b",
    hardware: Annotated[
        str, typer.Option(help="A profile or a YAML file; for ttft several, commas between.")
    ] = "h100-sxm",
    frames: VideoFramesOption = 32,
    text_tokens: TextTokensOption = 100,
    batch: BatchOption = 1,
    parts: AllPartOptions,
    schedule: SchedulesOption = None,
    accuracy: Annotated[
        list[Path] | None,
        typer.Option(help="For pareto: own scores beside the published ones."),
    ] = None,
    benchmark: Annotated[str, typer.Option(help="For pareto.")] = "videomme",
    dtype: DtypeOption = "bfloat16",
    execution: ExecutionOption = "eager",
) -> None:
    """Draw a picture for print; without a schedule it is AIM's."""
    from aim_cost import plots

    drawn = plots.PLOTS[one_of(kind, plots.PLOTS, "kind of plot", SpecError)]
    one_of(out.suffix, plots.SUFFIXES, f"suffix of {out}", SpecError)
    workload = Workload(text_tokens, frames=frames, batch=batch)
    request = plots.Request(
        plot=kind,
        cases=tuple(
            Case(model, workload, name, Execution(dtype, mode=execution))
            for name in hardware.split(",")
        ),
        schedules=tuple(parts.all(schedule) or [_AIM]),
        accuracy=tuple(accuracy or ()),
        benchmark=benchmark,
    )
    with console(error=True).status("drawing"):
        figure = drawn.draw(request)
    plots.save(figure, out)
    for note in request.cases[0].price().notes:
        say(note)
    print(f"wrote {out}")
