"""aim-cost sweep and aim-cost symbolic."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aim_cost.case import Case
from aim_cost.checks import LARGEST, integral, numbers
from aim_cost.cli.options import BatchOption, DtypeOption, FormatOption, LastLayerOption
from aim_cost.devices.hardware import HardwareProfile, load_hardware
from aim_cost.errors import SpecError
from aim_cost.models.model import ModelSpec, load_model_spec
from aim_cost.models.workload import Execution, LastLayer, Workload
from aim_cost.render import Format, console, print_object, print_rows, say, table
from aim_cost.units import show

if TYPE_CHECKING:  # sympy and pandas are slow to import, and other commands need neither
    from aim_cost.sweeps import Grid


_MOST_VALUES = 1_000_000
"""The largest value of an axis; no sweep prices longer prompts."""


class FormulaFormat(StrEnum):
    """How formulas are printed."""

    text = "text"
    latex = "latex"
    json = "json"


def sweep(
    model: Annotated[
        str, typer.Option(help="Presets, config.json files or owner/name, with commas between.")
    ] = "llava-onevision-qwen2-7b",
    hardware: Annotated[
        str, typer.Option(help="Profiles or YAML files, with commas between.")
    ] = "h100-sxm",
    frames: Annotated[
        str, typer.Option(help="Numbers and ranges: 8,16,32 or 1:193, the end left out.")
    ] = "8,16,32",
    text_tokens: Annotated[str, typer.Option(help="Likewise.")] = "100",
    merge: Annotated[
        str, typer.Option(help="Retention ratios with commas between; 1 merges nothing.")
    ] = "1,0.5,0.25",
    l1: Annotated[
        str, typer.Option(help="First layers of linear pruning, likewise; none is one of them.")
    ] = "none,14",
    l2: Annotated[str, typer.Option(help="Last layers; pairs with l1 < l2 are priced.")] = "22",
    batch: BatchOption = 1,
    dtype: DtypeOption = "bfloat16",
    attention: Annotated[str, typer.Option(help="Attention of the LLM: sdpa or eager.")] = "sdpa",
    execution: Annotated[
        str, typer.Option(help="eager, cuda-graph, ideal, with commas between.")
    ] = "eager",
    last_layer: LastLayerOption = LastLayer.ALL,
    out: Annotated[
        Path | None, typer.Option(help="Write all rows to this .csv or .parquet.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="With --out: price on a Ray cluster, its address or local."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows to print without --out.")] = 10,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure schedules per second; no axes needed.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Price every combination of the values given; print the quickest, or write all.

    Ctrl-C keeps the chunks of --out that are finished, in OUT.parts: the same command goes on.
    """
    from aim_cost.sweeps import Grid, pairs

    models = tuple(load_model_spec(name) for name in model.split(","))
    devices = tuple(load_hardware(name) for name in hardware.split(","))
    executions = tuple(
        Execution(dtype, attention, mode, last_layer=last_layer) for mode in execution.split(",")
    )
    if benchmark:
        _print_benchmark(models[0], devices[0], executions[0], form)
        return
    grid = Grid(
        models=models,
        hardware=devices,
        executions=executions,
        frames=whole_numbers(frames, "--frames"),
        text_tokens=whole_numbers(text_tokens, "--text-tokens"),
        retentions=numbers(merge, "--merge", "retention ratios, e.g. 1,0.5", SpecError),
        prunes=pairs(_starts(l1), whole_numbers(l2, "--l2")),
        batch=batch,
    )
    if ray is not None and out is None:
        raise SpecError(
            "--ray", expected="--out beside it", got=ray, fix="Add --out sweep.parquet or .csv."
        )
    _say_notes(grid, devices[0])
    if out is not None:
        _write(grid, out, ray)
    else:
        _print_best(grid, top, form)


def _say_notes(grid: "Grid", device: HardwareProfile) -> None:
    """What the figures do not show of the longest prompts of ``grid``, on stderr."""
    longest = Workload(max(grid.text_tokens), frames=max(grid.frames), batch=grid.batch)
    for model in grid.models:
        for note in Case(model, longest, device, grid.executions[0]).price().notes:
            say(f"{model.name}, unreduced: {note}")


def _write(grid: "Grid", out: Path, address: str | None) -> None:
    from aim_cost.sweeps.store import write_sweep

    done = 0
    try:
        with _progress() as progress:
            task = progress.add_task("sweeping", total=grid.chunks)
            for done in write_sweep(grid, out, address):
                progress.update(task, completed=done)
    except KeyboardInterrupt:
        say(
            f"interrupted: {done} of {grid.chunks} chunks are kept in {out}.parts; "
            "the same command goes on"
        )
        raise typer.Exit(130) from None
    say(f"wrote {grid.rows:,} rows to {out}")


def _print_best(grid: "Grid", top: int, form: Format) -> None:
    from aim_cost.sweeps import chunks
    from aim_cost.sweeps.best import best_rows, best_table, to_rows

    with _progress() as progress:
        rows = to_rows(best_rows(progress.track(chunks(grid), total=grid.chunks), top))
    if form is not Format.table:
        print_rows(rows, form)
        return
    console().print(best_table(rows, grid))


def _print_benchmark(
    model: ModelSpec, hardware: HardwareProfile, execution: Execution, form: Format
) -> None:
    from aim_cost.sweeps.benchmark import benchmark

    with console(error=True).status("measuring"):
        result = benchmark(Case(model, Workload(100, frames=32), hardware, execution))
    if form is not Format.table:
        print_object(result, form)
        return
    lines = [
        ("FLOPs and KV-cache bytes", show(result["flops_schedules_per_s"], "")),
        ("the same with calibrated times", show(result["time_schedules_per_s"], "")),
    ]
    note = (
        f"{result['statistic'].capitalize()} of {result['repeats']} runs of "
        f"{result['rows_per_run']:,} rows on {result['cores']} core; tables beforehand: "
        f"{result['tables_s']:.2f} s."
    )
    console().print(table("Sweep", ("priced", "schedules per s"), lines, note))


def whole_numbers(text: str, where: str) -> tuple[int, ...]:
    """Read ``8,16`` and ranges ``0:28`` or ``1:193:8``, the end left out. Raises: SpecError."""
    form = "numbers and ranges such as 8,16,32 or 0:28"
    found: list[int] = []
    for part in text.split(","):
        given = numbers(part.replace(":", ","), where, form, SpecError)
        bounds = [integral(number, where, SpecError) for number in given]
        if len(bounds) > 3 or (len(bounds) == 3 and bounds[2] < 1):
            raise SpecError(where, expected=form, got=part, fix="A range is start:end:step.")
        values = bounds if len(bounds) == 1 else range(*bounds)
        if max(map(abs, bounds)) > LARGEST or len(found) + len(values) > _MOST_VALUES:
            raise SpecError(
                where,
                expected=f"at most {_MOST_VALUES} values, each at most {LARGEST}",
                got=part,
                fix="Give fewer, or a range with a step: start:end:step.",
            )
        found += values
    if not found:
        raise SpecError(where, expected=form, got=f"{text}, which is empty", fix="Move the end.")
    return tuple(dict.fromkeys(found))


def _starts(text: str) -> tuple[int | None, ...]:
    parts = text.split(",")
    rest = ",".join(part for part in parts if part != "none")
    given = whole_numbers(rest, "--l1") if rest else ()
    return (None, *given) if "none" in parts else given


def _progress() -> Progress:
    columns = (
        *(TextColumn("{task.description}"), BarColumn()),
        *(MofNCompleteColumn(), TimeRemainingColumn()),
    )
    terminal = console(error=True)
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def symbolic(
    part: Annotated[
        str | None,
        typer.Option(help="layer, llm, vision, merge, importance, kv or total; all without it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Put in the dims of a preset or a config.json.")
    ] = None,
    form: Annotated[
        FormulaFormat, typer.Option("--format", help="How to print the formulas.")
    ] = FormulaFormat.text,
) -> None:
    """Print the closed forms that sweeps evaluate, with derivatives and what each symbol means."""
    from aim_cost.sweeps.closed_forms import PARTS, closed_form, model_values
    from aim_cost.sweeps.formula_text import as_data, as_latex, as_text

    forms = [closed_form(name) for name in ([part] if part is not None else PARTS)]
    if model is not None:
        values = model_values(load_model_spec(model))
        forms = [found.of(values) for found in forms]
    if form is FormulaFormat.json:
        print(json.dumps([as_data(found) for found in forms], indent=2))
        return
    write = as_latex if form is FormulaFormat.latex else as_text
    print("\n\n".join(write(found) for found in forms))
