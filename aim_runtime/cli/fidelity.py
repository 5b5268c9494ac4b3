"""aim-runtime fidelity: a schedule against no reduction, on your own checkpoint and videos."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import (
    DtypeOption,
    FormatOption,
    ModelOption,
    PartOptions,
    SchedulesOption,
    VideoFramesOption,
)
from aim_cost.render import Format, console, print_rows, table
from aim_runtime.cli.options import DamagedOption, DeviceOption


@grouped
def fidelity(
    *,
    prompts: Annotated[Path, typer.Option(help="A .csv or .jsonl with video and question.")],
    model: ModelOption = "llava-onevision-qwen2-0.5b",
    frames: VideoFramesOption = 32,
    parts: PartOptions,
    schedule: SchedulesOption = None,
    new_tokens: Annotated[int, typer.Option(help="Decoding steps compared.")] = 16,
    dtype: DtypeOption = "bfloat16",
    device: DeviceOption = None,
    damaged: DamagedOption = False,
    form: FormatOption = Format.table,
) -> None:
    """How far schedules move the next-token distributions from the unreduced model's; no labels."""
    from aim_cost.models.workload import Workload
    from aim_runtime.answers.fidelity import VideoPrompt, fidelity_rows, read_prompts
    from aim_runtime.models import require_onevision_spec
    from aim_runtime.models.load import load, spec_of
    from aim_runtime.prompts.inputs import question_inputs
    from aim_runtime.prompts.video import sample_frames
    from aim_runtime.validation.suite import default_schedules

    asked = read_prompts(prompts)
    chosen = parts.all(schedule)
    require_onevision_spec(spec_of(model), "fidelity")
    loaded = load(model, device, dtype)
    chosen = chosen or default_schedules(loaded.spec, Workload(1, frames=frames))[1:]

    def inputs(prompt: VideoPrompt) -> dict[str, object]:
        video = sample_frames(prompt.video, frames, damaged=damaged)
        return question_inputs(loaded, video, prompt.question)[0]

    made = [partial(inputs, prompt) for prompt in asked]
    rows = fidelity_rows(loaded, made, chosen, new_tokens=new_tokens)
    if form is not Format.table:
        print_rows([row.to_row() for row in rows], form)
        return
    lines = [
        (
            row.schedule.label(),
            f"{row.kl_mean:.3f}",
            f"{row.kl_p95:.3f}",
            f"{row.kl_first:.3f}",
            f"{100 * row.top1_agreement:.0f} %",
            f"{100 * row.answers_equal:.0f} %",
        )
        for row in rows
    ]
    note = (
        f"{len(asked)} prompts, {new_tokens} steps along the unreduced answer. KL in nats: mean, "
        "95th percentile, first token; same: steps with the same most likely token; answers: "
        "prompts where all steps agree."
    )
    columns = ("schedule", "KL", "p95", "first", "same", "answers")
    console().print(table(f"{loaded.spec.name}, {frames} frames", columns, lines, note))
