"""aim-runtime: campaign, measure, validate, report and the other commands of this package.

torch and transformers take seconds to import, so each command imports what it needs.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

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
from aim_cost.files import write_atomically
from aim_cost.render import Format, console, print_rows, table, to_csv
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
from aim_runtime.cli.validate import validate
from aim_runtime.tiny import cli as tiny

app = new_app("Run models under a token-reduction schedule, and hold predictions to it.")
app.add_typer(tiny.app, name="tiny")
app.command()(validate)
app.command()(measure)
app.command()(campaign)
app.command()(accuracy)
app.command()(fidelity)
app.command()(report)


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
    import torch

    from aim_cost.models.model import load_model_spec
    from aim_runtime.kernels.microbench import microbench as run_microbench
    from aim_runtime.models.load import default_device

    workload = prompt.workload(8)
    place = torch.device(device or default_device())
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
    row = answer(loaded, video, prompt, frames, chosen, max_new_tokens, damaged=damaged)
    if form is not Format.table:
        print_rows([row], form)
        return
    print(row["text"])


@app.command()
def selfcheck(
    vectors: Annotated[
        Path | None,
        typer.Option(help="Recorded outputs, in the format of prefill_prune_*.safetensors."),
    ] = None,
    device: DeviceOption = None,
    minutes: Annotated[
        float, typer.Option(help="Begin no further check of the device after so many minutes.")
    ] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Write a .json after each check; Ctrl-C keeps it.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Is what runs here right, and how fast is the device at best? Exit status 1 if not right.

    Dropping against masking, with these versions; attention by each backend, the score's kernel,
    patched, captured and repeated prefills on this device; its GEMM and copy rates.
    """
    from aim_runtime.models.load import default_device, place_of
    from aim_runtime.validation.device_check import device_checks
    from aim_runtime.validation.selfcheck import selfcheck as run_selfcheck

    place = place_of(device or default_device())
    result = run_selfcheck(vectors, device=str(place))
    rows: list[dict[str, Any]] = []
    for check in device_checks(place, seconds=60 * minutes):
        rows.append(check.to_row())
        result |= {
            "device": rows,
            "passed": result["passed"] and check.passed is not False,
        }
        if out is not None:
            write_atomically(out, (json.dumps(result, indent=2) + "\n").encode())
    if form is Format.json:
        print(json.dumps(result, indent=2))
    elif form is Format.csv:
        print(to_csv(rows))
    else:
        console().print(_selfcheck_table(result))
        console().print(_device_table(str(place), rows))
    sys.exit(0 if result["passed"] else 1)


def _device_table(device: str, rows: list[dict[str, Any]]) -> Any:
    verdicts = {True: "right", False: "WRONG", None: ""}
    lines = [(row["name"], row["got"], verdicts[row["passed"]]) for row in rows]
    note = "No verdict: a fact, or nothing to check here."
    for row in rows:
        if row["passed"] is False:
            note += f" {row['name']}: expected {row['expected']}."
    columns = ("check", "got", "verdict")
    return table(f"This device: {device}", columns, lines, note)


def _selfcheck_table(result: dict[str, Any]) -> Any:
    lines = [
        (
            name,
            "equal" if check["kept_sets_equal"] else "DIFFER",
            f"{check['max_logit_difference']:.1e}"
            if check["max_logit_difference"] is not None
            else "not finite",
            "equal" if check["greedy_tokens_equal"] else "DIFFER",
        )
        for name, check in result["checks"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    note = f"{'Passed' if result['passed'] else 'FAILED'}; logits may differ by " + (
        f"{result['logit_tolerance']:.0e}. {versions}."
    )
    columns = ("check", "kept sets", "largest logit difference", "greedy tokens")
    return table("Physical drop against the mask-based reference", columns, lines, note)


def main() -> None:
    """Entry point of ``aim-runtime``."""
    run(app)
