"""aim-runtime: measure, validate, microbench, generate, selfcheck, accuracy, fidelity, tiny.

torch and transformers take seconds to import, so each command imports what it needs.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aim_cost.command_line import (
    BatchOption,
    DtypeOption,
    FormatOption,
    FramesOption,
    MergeOption,
    ModelOption,
    PerFrameOption,
    PruneOption,
    TextTokensOption,
    new_app,
    run,
    schedule_from,
)
from aim_cost.report import Format, console, print_rows, table, to_csv
from aim_cost.schedule import Schedule
from aim_cost.timing import load_calibration
from aim_cost.units import milli
from aim_cost.workload import Workload
from aim_runtime.accuracy_cli import accuracy
from aim_runtime.fidelity_cli import fidelity
from aim_runtime.tiny import cli as tiny

if TYPE_CHECKING:
    from aim_runtime.load import Loaded

app = new_app("Run LLaVA-OneVision under a token-reduction schedule, and hold predictions to it.")
app.add_typer(tiny.app, name="tiny")
app.command()(accuracy)
app.command()(fidelity)

LayersOption = Annotated[
    int | None,
    typer.Option("--layers", help="Only N layers of decoder and vision tower (random weights)."),
]
VisionLayersOption = Annotated[
    int | None,
    typer.Option("--vision-layers", help="Only N layers of the vision tower (random weights)."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cuda or cpu; by default cuda where there is one.")
]
WeightsOption = Annotated[
    bool,
    typer.Option(
        "--random-weights/--pretrained",
        help="Random weights on the real dims, or the checkpoint of that name or folder.",
    ),
]
RepeatsOption = Annotated[int, typer.Option("--repeats", help="Runs of each schedule.")]
SchedulesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--schedule", help="A schedule as YAML or JSON; may be given again.", show_default=False
    ),
]


def _schedules(
    merge: str | None,
    tokens_per_frame: int | None,
    prune: str | None,
    files: list[Path] | None,
    suite: list[Schedule],
) -> list[Schedule]:
    """No reduction first, then those asked for; the suite when none is."""
    asked = [Schedule.load(path) for path in files or []]
    if merge or prune or tokens_per_frame is not None:
        asked.append(schedule_from(merge, tokens_per_frame, prune, None))
    if not asked:
        return suite
    return [Schedule(), *(schedule for schedule in asked if schedule != Schedule())]


def _load(
    model: str,
    device: str | None,
    dtype: str,
    random_weights: bool,
    layers: int | None = None,
    vision_layers: int | None = None,
) -> "Loaded":
    from aim_runtime.load import load

    with console(error=True).status(f"loading {model}"):
        return load(
            model,
            device,
            dtype,
            random_weights=random_weights,
            layers=layers,
            vision_layers=vision_layers,
        )


@app.command()
def measure(
    model: ModelOption = "llava-onevision-qwen2-0.5b",
    layers: LayersOption = None,
    vision_layers: VisionLayersOption = None,
    frames: FramesOption = 8,
    text_tokens: TextTokensOption = 100,
    batch: BatchOption = 1,
    merge: MergeOption = None,
    tokens_per_frame: PerFrameOption = None,
    prune: PruneOption = None,
    schedule: SchedulesOption = None,
    dtype: DtypeOption = "bfloat16",
    device: DeviceOption = None,
    random_weights: WeightsOption = True,
    repeats: RepeatsOption = 10,
    warmup: Annotated[int, typer.Option(help="Runs of each schedule before the clock.")] = 2,
    out: Annotated[
        Path | None,
        typer.Option(help="Write rows to this .json or .csv, each as soon as it is measured."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Keep the good rows of --out, do the rest.")] = False,
    suite: Annotated[
        str | None,
        typer.Option(help="A campaign instead (h200): models, sizes, kernels; --out is a folder."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="With --suite: begin nothing after that many minutes.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Time a prefill, phase by phase, with and without reduction, interleaved.

    Medians; CUDA events on a GPU, the monotonic clock on a CPU; random inputs.
    """
    from aim_runtime.measure import measure as run_measure
    from aim_runtime.suite import default_schedules

    if suite is not None:
        _campaign(suite, out, device, minutes, form)
        return

    loaded = _load(model, device, dtype, random_weights, layers, vision_layers)
    workload = Workload(text_tokens=text_tokens, frames=frames, batch=batch)
    suite = default_schedules(loaded.spec.text.num_hidden_layers)
    schedules = _schedules(merge, tokens_per_frame, prune, schedule, suite)
    rows = run_measure(
        loaded, workload, schedules, repeats=repeats, warmup=warmup, out=out, resume=resume
    )
    if form is not Format.table:
        print_rows(rows, form)
        return
    phases = ("vision.tower", "vision.projector", "merge", "llm", "importance")
    lines = [
        (
            row["schedule"],
            *(_milliseconds(row.get(f"{name}.time_s")) for name in phases),
            _milliseconds(row.get("ttft_s")) if not row.get("error") else "failed",
        )
        for row in rows
    ]
    columns = ("schedule", "tower", "proj.", "merge", "llm", "score", "TTFT")
    note = f"Milliseconds, medians of {repeats}. {rows[0]['hardware']}, {dtype}, {frames} frames."
    console().print(table(loaded.spec.name, columns, lines, note))
    for row in rows:
        if row.get("error"):
            print(f"failed: {row['schedule']}: {row['error']}", file=sys.stderr)


def _campaign(
    suite: str, out: Path | None, device: str | None, minutes: float | None, form: Format
) -> None:
    from aim_runtime.campaign import run_suite
    from aim_runtime.errors import MeasurementError

    if out is None:
        raise MeasurementError(
            "--out", expected="a folder for the campaign", got="nothing", fix="Add --out DIR."
        )
    rows = run_suite(suite, out, device=device, minutes=minutes)
    if form is not Format.table:
        print_rows(rows, form)
        return
    failed = sum(bool(row["error"]) for row in rows)
    print(f"{out}: {len(rows)} rows, {failed} of them failed")


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    value = milli(seconds)
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


@app.command()
def validate(
    model: ModelOption = "llava-onevision-qwen2-0.5b",
    layers: LayersOption = None,
    vision_layers: VisionLayersOption = None,
    frames: FramesOption = 4,
    text_tokens: TextTokensOption = 50,
    merge: MergeOption = None,
    tokens_per_frame: PerFrameOption = None,
    prune: PruneOption = None,
    schedule: SchedulesOption = None,
    hardware: Annotated[
        str | None,
        typer.Option(help="A profile instead of this device's, which is measured where unknown."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A calibration of --hardware (aim-cost calibrate).")
    ] = None,
    dtype: DtypeOption = "bfloat16",
    device: DeviceOption = None,
    random_weights: WeightsOption = True,
    repeats: RepeatsOption = 5,
    plot: Annotated[Path | None, typer.Option(help="Write a picture to this .png.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Predict and run: traces and FLOPs must be equal (else exit status 1), times are compared."""
    from aim_runtime.suite import validation_schedules
    from aim_runtime.validate import validate as run_validate
    from aim_runtime.validate_report import validation_plot, validation_table

    loaded = _load(model, device, dtype, random_weights, layers, vision_layers)
    spec = loaded.spec
    suite = validation_schedules(spec.text.num_hidden_layers, spec.frame_tokens)
    schedules = _schedules(merge, tokens_per_frame, prune, schedule, suite)
    result = run_validate(
        loaded,
        Workload(text_tokens=text_tokens, frames=frames),
        schedules,
        hardware=hardware,
        calibration=load_calibration(calibration) if calibration else None,
        repeats=repeats,
    )
    if plot is not None:
        validation_plot(result.rows, plot, result.title)
    if form is Format.table:
        console().print(validation_table(result))
    elif form is Format.csv:
        print(to_csv(result.rows))
    else:
        print(json.dumps(result.to_dict(), indent=2))
    sys.exit(0 if result.summary["passed"] else 1)


@app.command()
def microbench(
    out: Annotated[Path, typer.Option(help="Write the tables and hardware.yaml to this folder.")],
    model: ModelOption = "llava-onevision-qwen2-0.5b",
    frames: FramesOption = 8,
    text_tokens: TextTokensOption = 100,
    dtype: DtypeOption = "bfloat16",
    device: DeviceOption = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="How long; by default 80 on a CPU, 60 on a GPU.", show_default=False),
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Time the kernels of a model's prefills on this device, as tables for aim-cost calibrate."""
    import torch

    from aim_cost.model import load_model_spec
    from aim_runtime.load import default_device
    from aim_runtime.microbench import microbench as run_microbench

    workload = Workload(text_tokens=text_tokens, frames=frames)
    place = torch.device(device or default_device())
    paths = run_microbench(load_model_spec(model), workload, out, place, dtype, seconds)
    if form is not Format.table:
        print_rows([{"file": str(path)} for path in paths], form)
        return
    print("\n".join(map(str, paths)))


@app.command()
def generate(
    video: Annotated[Path, typer.Option(help="A video file.")],
    prompt: Annotated[str, typer.Option(help="The question about the video.")],
    model: ModelOption = "llava-onevision-qwen2-0.5b",
    frames: FramesOption = 32,
    merge: MergeOption = None,
    tokens_per_frame: PerFrameOption = None,
    prune: PruneOption = None,
    schedule: Annotated[
        Path | None, typer.Option("--schedule", help="A schedule as YAML or JSON.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of the answer at most.")] = 64,
    dtype: DtypeOption = "bfloat16",
    device: DeviceOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Answer a question about a video with a checkpoint, under a schedule."""
    from aim_runtime.answer import answer

    chosen = schedule_from(merge, tokens_per_frame, prune, schedule)
    loaded = _load(model, device, dtype, False)
    row = answer(loaded, video, prompt, frames, chosen, max_new_tokens)
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
    form: FormatOption = Format.table,
) -> None:
    """Does the physical drop equal the mask-based reference on this machine's versions?"""
    from aim_runtime.load import default_device
    from aim_runtime.selfcheck import selfcheck as run_selfcheck

    result = run_selfcheck(vectors, device=device or default_device())
    if form is Format.json:
        print(json.dumps(result, indent=2))
    elif form is Format.csv:
        print(to_csv([result]))
    else:
        console().print(_selfcheck_table(result))
    sys.exit(0 if result["passed"] else 1)


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


if __name__ == "__main__":
    main()
