"""aim-cost plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aim_cost.checks import integral, numbers, one_of
from aim_cost.cli.options import (
    BatchOption,
    DtypeOption,
    ExecutionOption,
    FormatOption,
    HardwareOption,
    ModelOption,
    TextTokensOption,
)
from aim_cost.devices.hardware import load_hardware
from aim_cost.errors import SpecError
from aim_cost.models.model import load_model_spec
from aim_cost.models.workload import Execution
from aim_cost.render import Format, console, print_object
from aim_cost.units import si

if TYPE_CHECKING:  # pandas and sympy are slow to import, and other commands need neither
    import pandas as pd

_Limit = float | None


def plan(
    model: ModelOption = "llava-onevision-qwen2-7b",
    hardware: HardwareOption = "h100-sxm",
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
    dtype: DtypeOption = "bfloat16",
    execution: ExecutionOption = "eager",
    form: FormatOption = Format.table,
) -> None:
    """Find the schedule with the best expected accuracy within limits, and say what that rests on.

    Accuracy comes from data: a score of the schedule, or one between two that differ in one stage.
    """
    from aim_cost.cli.plan_table import plan_table
    from aim_cost.papers.accuracy import published_accuracy
    from aim_cost.studies.candidates import Limits, Task
    from aim_cost.studies.own_accuracy import load_accuracy
    from aim_cost.studies.plan import plan

    limits = Limits(
        _positive(ttft_ms, "m", "--ttft-ms"),
        _positive(flops_tera, "T", "--flops-tera"),
        _positive(memory_gb, "G", "--memory-gb"),
    )
    table = load_accuracy(accuracy) if accuracy else published_accuracy()
    task = Task(
        load_model_spec(model),
        load_hardware(hardware),
        Execution(dtype, mode=execution),
        text_tokens,
        None if frames == "auto" else _whole(frames),
        batch,
    )
    answer = plan(task, limits, table, _benchmark(benchmark, table))
    if form is not Format.table:
        print_object(answer.to_row(), form)
        return
    console().print(plan_table(answer))


def _positive(value: _Limit, prefix: str, where: str) -> _Limit:
    if value is None:
        return None
    if not 0 < value < float("inf"):
        raise SpecError(where, expected="a number above 0", got=value, fix="Correct it.")
    return si(value, prefix)


def _whole(frames: str) -> int:
    (number,) = numbers(frames, "--frames", "a number or auto", SpecError)[:1]
    return integral(number, "--frames", SpecError)


def _benchmark(given: str | None, table: "pd.DataFrame") -> str:
    known = list(dict.fromkeys(table["benchmark"]))
    if given is not None:
        return one_of(given, known, "--benchmark", SpecError)
    default = [name for name in ("videomme", "all") if name in known]
    if default or len(known) == 1:
        return (default or known)[0]
    raise SpecError(
        "--benchmark",
        expected="one of the benchmarks of --accuracy",
        got="none chosen",
        fix=f"Known: {', '.join(known)}.",
    )
