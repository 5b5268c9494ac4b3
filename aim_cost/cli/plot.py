"""aim-cost plot."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aim_cost.case import Case, Estimate
from aim_cost.checks import one_of
from aim_cost.cli.options import (
    BatchOption,
    DtypeOption,
    ExecutionOption,
    MergeOption,
    ModelOption,
    PerFrameOption,
    PruneOption,
    SchedulesOption,
    SelectOption,
    TextTokensOption,
    VisionMergeOption,
    schedules_from,
)
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.models.workload import Execution, Workload
from aim_cost.render import console
from aim_cost.schedules.schedule import Schedule

if TYPE_CHECKING:  # matplotlib is slow to import, and other commands do not need it
    from matplotlib.figure import Figure

KINDS = {
    "pareto": "accuracy over FLOPs and over TTFT, published and own",
    "roofline": "the ops of one prefill under the roofs of a device",
    "tokens": "tokens entering each layer",
    "break-even": "where a schedule pays, over frames and text tokens",
    "ttft": "time to first token, before and after",
}
_MOST_LINES = 6
_AIM = Schedule.parse("merge 0.25, prune linear:14:22")


def plot(
    kind: Annotated[str, typer.Argument(help="; ".join(f"{k}: {v}" for k, v in KINDS.items()))],
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .pdf or .svg.")],
    model: ModelOption = "llava-onevision-qwen2-7b",
    hardware: Annotated[
        str, typer.Option(help="A profile or a YAML file; for ttft several, commas between.")
    ] = "h100-sxm",
    frames: Annotated[int, typer.Option(help="Video frames.")] = 32,
    text_tokens: TextTokensOption = 100,
    batch: BatchOption = 1,
    merge: MergeOption = None,
    tokens_per_frame: PerFrameOption = None,
    prune: PruneOption = None,
    select: SelectOption = None,
    vision_merge: VisionMergeOption = None,
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

    one_of(kind, KINDS, "kind of plot", SpecError)
    one_of(out.suffix, plots.SUFFIXES, f"suffix of {out}", SpecError)
    names = hardware.split(",")
    if len(names) > 1 and kind != "ttft":
        raise SpecError("--hardware", expected=f"one for {kind}", got=hardware, fix="Name one.")
    chosen = schedules_from(
        schedule,
        tokens_per_frame,
        merge=merge,
        prune=prune,
        select=select,
        vision_merge=vision_merge,
    ) or [_AIM]
    workload = Workload(text_tokens, frames=frames, batch=batch)
    cases = [Case(model, workload, name, Execution(dtype, mode=execution)) for name in names]
    with console(error=True).status("drawing"):
        figure = _draw(kind, chosen, cases, accuracy, benchmark)
    plots.save(figure, out)
    print(f"wrote {out}")


def _draw(
    kind: str,
    chosen: list[Schedule],
    cases: list[Case],
    accuracy: list[Path] | None,
    benchmark: str,
) -> "Figure":
    from aim_cost import plots

    if kind == "pareto":
        return _pareto(accuracy, benchmark, cases[0].price())
    if kind == "roofline":
        return plots.roofline(cases[0].price(_one(kind, chosen)))
    if kind == "break-even":
        return plots.break_even(plots.payoff(cases[0].price(_one(kind, chosen))))
    lines = list(dict.fromkeys([Schedule(), *chosen]))
    if kind == "tokens":
        if len(lines) > _MOST_LINES:
            raise ScheduleError(
                "--schedule",
                expected=f"at most {_MOST_LINES} lines",
                got=len(lines),
                fix="Drop some.",
            )
        return plots.tokens([cases[0].price(line) for line in lines])
    return plots.ttft([case.price(line) for case in cases for line in lines])


def _pareto(accuracy: list[Path] | None, benchmark: str, baseline: Estimate) -> "Figure":
    import pandas as pd

    from aim_cost import plots
    from aim_cost.papers.accuracy import published_accuracy
    from aim_cost.studies.own_accuracy import read_scores

    table = published_accuracy()
    if accuracy:
        scores = read_scores(accuracy)
        known = {*table["benchmark"], *scores.by_benchmark}
        if one_of(benchmark, known, "--benchmark", SpecError) in scores.by_benchmark:
            table = pd.concat([table, scores.table(benchmark)], ignore_index=True)
    one_of(benchmark, set(table["benchmark"]), "--benchmark", SpecError)
    points = plots.pareto_points(table, benchmark, baseline)
    if points.empty:
        raise SpecError(
            "--model",
            expected=f"a model with scores of {benchmark}",
            got=baseline.model.name,
            fix=f"Known: {', '.join(set(table['model'].dropna()))}; or give --accuracy.",
        )
    return plots.pareto(points, benchmark, baseline)


def _one(kind: str, chosen: list[Schedule]) -> Schedule:
    if len(chosen) > 1:
        raise ScheduleError(
            "--schedule", expected=f"one for {kind}", got=len(chosen), fix="Keep one."
        )
    return chosen[0]
