"""aim-runtime measure: the clock alone, for a few schedules."""

from typing import Annotated

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import (
    BatchOption,
    FormatOption,
    LastLayerOption,
    PartOptions,
    PromptOptions,
    SchedulesOption,
)
from aim_cost.models.workload import LastLayer
from aim_cost.render import Format, console, print_rows, say, table
from aim_cost.units import milli
from aim_runtime.cli.options import (
    AttentionOption,
    LoadOptions,
    OutOption,
    RepeatsOption,
    ResumeOption,
    chosen_attention,
    with_baseline,
)


@grouped
def measure(
    *,
    options: LoadOptions,
    prompt: PromptOptions,
    batch: BatchOption = 1,
    parts: PartOptions,
    schedule: SchedulesOption = None,
    last_layer: LastLayerOption = LastLayer.ALL,
    repeats: RepeatsOption = 10,
    warmup: Annotated[int, typer.Option(help="Runs of each schedule before the clock.")] = 2,
    out: OutOption = None,
    resume: ResumeOption = False,
    attention: AttentionOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Time a prefill, phase by phase, with and without reduction, interleaved.

    Medians; CUDA events on a GPU, the monotonic clock on a CPU; random inputs. Without --frames,
    --image-tokens and --image it is a video of 8 frames.
    """
    from aim_runtime.measurement.measure import measure as run_measure
    from aim_runtime.validation.suite import default_schedules

    backend = chosen_attention(attention)
    workload = prompt.workload(8, batch)
    asked = with_baseline(parts.all(schedule))
    loaded = options.load(workload, asked)
    schedules = asked or default_schedules(loaded.spec, workload)
    rows = run_measure(
        loaded,
        workload,
        schedules,
        repeats=repeats,
        warmup=warmup,
        out=out,
        resume=resume,
        last_layer=last_layer,
        attention=backend,
    )
    if form is not Format.table:
        print_rows([row.to_row() for row in rows], form)
        return
    phases = ("vision.tower", "vision.projector", "merge", "llm", "importance")
    lines = [
        (
            row.key.run.schedule.label(),
            *(_milliseconds(row.phase_s[phase]) for phase in phases),
            "failed" if row.error else _milliseconds(row.ttft_s),
        )
        for row in rows
    ]
    columns = ("schedule", "tower", "proj.", "merge", "llm", "score", "TTFT")
    where = f"{rows[0].key.hardware}, {loaded.dtype}, {workload.label()}, "
    where += f"attention by {rows[0].key.attention_backend}"
    note = f"Milliseconds, medians of {repeats}. {where}."
    console().print(table(loaded.spec.name, columns, lines, note))
    for row in rows:
        if row.error:
            say(f"failed: {row.key.run.schedule.label()}: {row.error}")


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    value = milli(seconds)
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
