"""aim-runtime measure: the clock alone, for a few schedules or for a whole campaign."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from aim_cost.command_line import (
    BatchOption,
    DtypeOption,
    FormatOption,
    FrameSizeOption,
    FramesOption,
    ImageOption,
    ImageTokensOption,
    LastLayerOption,
    MergeOption,
    ModelOption,
    PerFrameOption,
    PruneOption,
    SchedulesOption,
    TextTokensOption,
    VisionMergeOption,
    workload_from,
)
from aim_cost.report import Format, console, print_rows, table
from aim_cost.units import milli
from aim_runtime.options import (
    DeviceOption,
    LayersOption,
    RepeatsOption,
    VisionLayersOption,
    WeightsOption,
    chosen_schedules,
    load_model,
)


def measure(
    model: ModelOption = "llava-onevision-qwen2-0.5b",
    layers: LayersOption = None,
    vision_layers: VisionLayersOption = None,
    frames: FramesOption = None,
    image_tokens: ImageTokensOption = None,
    image: ImageOption = None,
    frame_size: FrameSizeOption = None,
    text_tokens: TextTokensOption = 100,
    batch: BatchOption = 1,
    merge: MergeOption = None,
    tokens_per_frame: PerFrameOption = None,
    prune: PruneOption = None,
    vision_merge: VisionMergeOption = None,
    schedule: SchedulesOption = None,
    last_layer: LastLayerOption = "all",
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

    Medians; CUDA events on a GPU, the monotonic clock on a CPU; random inputs. Without --frames,
    --image-tokens and --image it is a video of 8 frames.
    """
    from aim_runtime.measure import measure as run_measure
    from aim_runtime.suite import default_schedules

    if suite is not None:
        _campaign(suite, out, device, minutes, form)
        return

    workload = workload_from(
        text_tokens, batch, frames, image_tokens, image, frame_size, default_frames=8
    )
    loaded = load_model(model, device, dtype, random_weights, layers, vision_layers, workload)
    suite = default_schedules(loaded.spec.text.num_hidden_layers)
    schedules = chosen_schedules(
        suite, schedule, tokens_per_frame, merge=merge, prune=prune, vision_merge=vision_merge
    )
    rows = run_measure(
        *(loaded, workload, schedules),
        repeats=repeats,
        warmup=warmup,
        out=out,
        resume=resume,
        last_layer=last_layer,
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
    where = f"{rows[0]['hardware']}, {dtype}, {workload.label()}"
    note = f"Milliseconds, medians of {repeats}. {where}."
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
