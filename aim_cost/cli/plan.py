"""aim-cost plan."""

from pathlib import Path
from typing import Annotated

import typer

from aim_cost.checks import integral, numbers
from aim_cost.cli.groups import grouped
from aim_cost.cli.options import BatchOption, CaseOptions, FormatOption, TextTokensOption
from aim_cost.errors import SpecError
from aim_cost.models.workload import Workload
from aim_cost.render import Format, console, print_object
from aim_cost.units import si

_Limit = float | None

_REFERENCE_FRAMES = 32
"""Frames of AIM's tables, and of a plan without other data that may choose the frames."""


@grouped
def plan(
    *,
    options: CaseOptions,
    ttft_ms: Annotated[_Limit, typer.Option(help="Longest time to first token.")] = None,
    flops_tera: Annotated[_Limit, typer.Option(help="Most FLOPs of a prefill, in 10**12.")] = None,
    memory_gb: Annotated[
        _Limit, typer.Option(help="Most memory, in 10**9 bytes; never more than the device has.")
    ] = None,
    frames: Annotated[str, typer.Option(help="A number, or auto: as far as data reach.")] = "32",
    text_tokens: TextTokensOption = 100,
    batch: BatchOption = 1,
    accuracy: Annotated[
        list[Path] | None,
        typer.Option(help="Own scores instead of published ones: CSV, JSON, lmms-eval results."),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Whose accuracy; videomme, or the only one of your files.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Find the schedule with the best expected accuracy within limits, and print its evidence.

    Accuracy comes from data: a score of the schedule, or one between two that differ in one stage.
    """
    from aim_cost.studies.plan import plan  # pandas and sympy are slow to import

    choose_frames = frames == "auto"
    count = _REFERENCE_FRAMES if choose_frames else _whole(frames)
    answer = plan(
        options.case(Workload(text_tokens, frames=count, batch=batch)),
        ttft_s=_si(ttft_ms, "m"),
        flops=_si(flops_tera, "T"),
        memory_bytes=_si(memory_gb, "G"),
        choose_frames=choose_frames,
        accuracy=accuracy or None,
        benchmark=benchmark,
    )
    if form is not Format.table:
        print_object(answer.to_row(), form)
        return
    console().print(answer)


def _si(value: _Limit, prefix: str) -> _Limit:
    return None if value is None else si(value, prefix)


def _whole(frames: str) -> int:
    form = "a number or auto"
    number, *more = numbers(frames, "--frames", form, SpecError)
    if more:
        raise SpecError("--frames", expected=form, got=frames, fix="Give one number.")
    return integral(number, "--frames", SpecError)
