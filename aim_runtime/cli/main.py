"""aim-runtime: campaign, measure, validate, report and the other commands of this package.

torch and transformers take seconds to import, so each command imports what it needs.
"""

from pathlib import Path
from typing import Annotated

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import (
    DtypeOption,
    FormatOption,
    ModelOption,
    PartOptions,
    PromptOptions,
    ScheduleOption,
    VideoFramesOption,
    new_app,
    run,
)
from aim_cost.render import Format, print_rows
from aim_runtime.cli.accuracy import accuracy
from aim_runtime.cli.campaign import campaign
from aim_runtime.cli.fidelity import fidelity
from aim_runtime.cli.measure import measure
from aim_runtime.cli.options import (
    AttentionOption,
    DamagedOption,
    DeviceOption,
    chosen_attention,
    load_model,
)
from aim_runtime.cli.report import report
from aim_runtime.cli.selfcheck import selfcheck
from aim_runtime.cli.table import table
from aim_runtime.cli.validate import validate
from aim_runtime.tiny import cli as tiny

app = new_app("Run models under a token-reduction schedule, and hold predictions to it.")
app.add_typer(tiny.app, name="tiny")
app.command()(validate)
app.command()(measure)
app.command()(table)
app.command()(campaign)
app.command()(accuracy)
app.command()(fidelity)
app.command()(report)
app.command()(selfcheck)


@app.command()
@grouped
def microbench(
    *,
    out: Annotated[Path, typer.Option(help="Write the tables and hardware.yaml to this folder.")],
    model: ModelOption = "llava-onevision-qwen2-0.5b",
    prompt: PromptOptions,
    dtype: DtypeOption = "bfloat16",
    device: DeviceOption = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="How long; by default 80 on a CPU, 60 on a GPU.", show_default=False),
    ] = None,
    attention: AttentionOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Time the kernels of a model's prefills on this device, as tables for aim-cost calibrate.

    Without --frames, --image-tokens and --image up to those of a video of 8 frames.
    """
    from aim_cost.models.model import load_model_spec
    from aim_runtime.kernels.microbench import microbench as run_microbench
    from aim_runtime.models.load import place_of

    workload = prompt.workload(8)
    place = place_of(device)
    spec, backend = load_model_spec(model), chosen_attention(attention)
    paths = run_microbench(spec, workload, out, place, dtype, seconds, backend)
    if form is not Format.table:
        print_rows([{"file": str(path)} for path in paths], form)
        return
    print("\n".join(map(str, paths)))


@app.command()
@grouped
def generate(
    *,
    video: Annotated[Path, typer.Option(help="A video, animation or picture.")],
    prompt: Annotated[str, typer.Option(help="The question about the video.")],
    model: ModelOption = "llava-onevision-qwen2-0.5b",
    frames: VideoFramesOption = 32,
    parts: PartOptions,
    schedule: ScheduleOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of the answer at most.")] = 64,
    damaged: DamagedOption = False,
    dtype: DtypeOption = "bfloat16",
    device: DeviceOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Answer a question about a video with a checkpoint, under a schedule."""
    from aim_runtime.answers.answer import answer
    from aim_runtime.models import require_onevision_spec
    from aim_runtime.models.load import spec_of

    chosen = parts.one(schedule)
    require_onevision_spec(spec_of(model), "generate")
    loaded = load_model(model, device, dtype)
    found = answer(loaded, video, prompt, frames, chosen, max_new_tokens, damaged=damaged)
    if form is not Format.table:
        print_rows([found.to_row()], form)
        return
    print(found.text)


def main() -> None:
    """Entry point of ``aim-runtime``."""
    run(app)
