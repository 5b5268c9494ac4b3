"""aim-cost: predict, plan, plot, methods, compare, sweep, symbolic, models, table and more."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aim_cost.cli import compare as compare_cli
from aim_cost.cli import plan as plan_cli
from aim_cost.cli import plot as plot_cli
from aim_cost.cli import sweep as sweep_cli
from aim_cost.cli.groups import grouped
from aim_cost.cli.options import (
    AllPartOptions,
    BatchOption,
    CaseOptions,
    DtypeOption,
    FormatOption,
    LastLayerOption,
    PromptOptions,
    ScheduleOption,
    new_app,
    run,
)
from aim_cost.conventions.convention import CONVENTIONS
from aim_cost.devices.hardware import hardware_names, load_hardware, to_row
from aim_cost.models.model import load_model_spec, preset_names
from aim_cost.models.parameters import model_parameters
from aim_cost.models.vision_spec import DEFAULT_FRAME_SIZE
from aim_cost.models.workload import LastLayer
from aim_cost.papers.efficiency import published_rows
from aim_cost.render import Format, console, print_object, print_rows, table
from aim_cost.timing import load_calibration
from aim_cost.units import show, tera

app = new_app("FLOPs, memory and prefill time of multimodal LLMs under visual-token reduction.")
app.command()(sweep_cli.sweep)
app.command()(sweep_cli.symbolic)
app.command()(plan_cli.plan)
app.command(cls=plot_cli.PlotCommand)(plot_cli.plot)
app.command()(compare_cli.methods)
app.command("compare")(compare_cli.compare_methods)


@app.command()
@grouped
def predict(
    *,
    options: CaseOptions,
    prompt: PromptOptions,
    batch: BatchOption = 1,
    parts: AllPartOptions,
    schedule: ScheduleOption = None,
    convention: Annotated[
        str, typer.Option(help=f"How FLOPs are counted: {', '.join(CONVENTIONS)}.")
    ] = "executed",
    attention: Annotated[str, typer.Option(help="Attention of the LLM: sdpa or eager.")] = "sdpa",
    scoring: Annotated[
        str, typer.Option(help="Of AIM's importance: torch, or fused as a GPU with Triton runs it.")
    ] = "torch",
    last_layer: LastLayerOption = LastLayer.ALL,
    form: FormatOption = Format.table,
) -> None:
    """Price one prefill: FLOPs, traffic, time with its band, and memory, phase by phase.

    Without --frames, --image-tokens and --image it is a video of 32 frames.
    """
    case = options.case(prompt.workload(32, batch), attention, scoring, last_layer)
    result = case.price(parts.one(schedule), convention)
    if form is not Format.table:
        print_object(result.to_row(), form)
        return
    console().print(result)


@app.command()
def models(form: FormatOption = Format.table) -> None:
    """List the models that ship as presets."""
    rows: list[dict[str, Any]] = []
    for name in preset_names():
        spec = load_model_spec(name)
        rows.append(
            {
                "name": name,
                "parameters": model_parameters(spec),
                "layers": spec.text.num_hidden_layers,
                "hidden_size": spec.text.hidden_size,
                "tokens_per_frame": spec.frame_tokens if spec.takes_video else None,
                "frames_per_group": spec.group_frames,
                "tokens_per_image": spec.image_tokens,
                "checkpoint": spec.checkpoint,
            }
        )
    if form is not Format.table:
        print_rows(rows, form)
        return
    columns = ("model", "params", "layers", "hidden", "frame", "image")
    lines = [
        (
            row["name"],
            show(row["parameters"], "", 1),
            str(row["layers"]),
            str(row["hidden_size"]),
            str(row["tokens_per_frame"] or "-") + " *" * (row["frames_per_group"] > 1),
            str(row["tokens_per_image"]),
        )
        for row in rows
    ]
    height, width = DEFAULT_FRAME_SIZE
    note = (
        "frame, image: visual tokens of one before any reduction. "
        f"* Of two frames, and by resolution: here {height} x {width} pixels."
    )
    console().print(table("Models", columns, lines, note))


@app.command()
def hardware(form: FormatOption = Format.table) -> None:
    """List the hardware profiles and their datasheet peaks."""
    profiles = [load_hardware(name) for name in hardware_names()]
    rows = [to_row(profile) for profile in profiles]
    if form is not Format.table:
        print_rows(rows, form)
        return

    def figure(row: dict[str, Any], key: str, scale: float, digits: int) -> str:
        value = row[key]
        unsure = "?" if any(key.startswith(u.rpartition(".")[2]) for u in row["unsure"]) else ""
        return "-" if value is None else f"{value / scale:.{digits}f}{unsure}"

    lines = [
        (
            row["name"],
            figure(row, "bfloat16_flops_per_s", 1e12, 1),
            figure(row, "float16_flops_per_s", 1e12, 1),
            figure(row, "float32_flops_per_s", 1e12, 1),
            figure(row, "memory_bandwidth_bytes_per_s", 1e9, 0),
            figure(row, "memory_bytes", 1e9, 0),
        )
        for row in rows
    ]
    note = "Dense datasheet peaks in TFLOP/s, bandwidth in GB/s, memory in GB. ?: unsure."
    columns = ("profile", "bf16", "fp16", "fp32", "bandwidth", "memory")
    console().print(table("Hardware profiles", columns, lines, note))


@app.command()
def calibrate(
    kernels: Annotated[Path, typer.Option(help="A folder of kernel tables.")],
    hardware: Annotated[str, typer.Option(help="The profile of the device they were measured on.")],
    out: Annotated[Path, typer.Option(help="The calibration to write, a .yaml.")],
    dtype: DtypeOption = "bfloat16",
    source: Annotated[str, typer.Option(help="Who measured, where and how.")] = "",
    form: FormatOption = Format.table,
) -> None:
    """Fit a calibration to measured kernels, with errors on shapes that the fit never saw."""
    from aim_cost.cli.evaluate_table import calibration_table
    from aim_cost.timing.fit.calibrate import fit_calibration

    with console(error=True).status("fitting"):
        fitted = fit_calibration(kernels, hardware, dtype, source=source)
    fitted.save(out)
    if form is not Format.table:
        kernels_of = fitted.kernels.items()
        print_rows([{"op": op, "rows": k.rows, **k.held_out} for op, k in kernels_of], form)
        return
    note = f"Percent, on shapes left out of the fit. Wrote {out}."
    console().print(calibration_table(fitted, note))


@app.command()
def evaluate(
    kernels: Annotated[Path, typer.Option(help="A folder of kernel tables of several GPUs.")],
    form: FormatOption = Format.table,
) -> None:
    """Print errors of the time models on unseen shapes, and of the roofline; five folds.

    Then whole prefills measured by others, priced with the shipped A100 calibration.
    """
    from aim_cost.cli.evaluate_table import held_out_table, prefill_table
    from aim_cost.timing.fit.evaluate import evaluate as run_evaluation
    from aim_cost.timing.fit.prefills import published_prefills

    with console(error=True).status("fitting five folds of each table"):
        result = run_evaluation(kernels)
    prefills = published_prefills(load_calibration("a100-sxm4-80gb"))
    if form is Format.json:
        rows = [{**vars(row), "error": row.error} for row in prefills]
        print(json.dumps({**result, "prefills": rows}, indent=2))
        return
    flat = [
        {"model": model, "gpu": gpu, "op": op, **errors}
        for model, gpus in result.items()
        for gpu, ops in gpus.items()
        for op, errors in ops.items()
    ]
    if form is Format.csv:
        print_rows(flat, form)
        return
    console().print(held_out_table(result), prefill_table(prefills))


@app.command("table")
def published_table(form: FormatOption = Format.table) -> None:
    """Compare AIM's published efficiency table with what the formulas give."""
    rows = [published.to_row() for published in published_rows()]
    if form is not Format.table:
        print_rows(rows, form)
        return
    lines = [
        (
            row["label"] + ("" if row["agrees"] else " *"),
            row["published.tflops"],
            row["computed.tflops"],
            row["published.prefill_ms"],
            row["computed.prefill_ms"],
            f"{tera(row['executed.llm.flops']):.2f}",
        )
        for row in rows
    ]
    agreeing = sum(row["agrees"] for row in rows)
    note = (
        f"{agreeing} of {len(rows)} rows agree in every printed digit. * The others are printed "
        "with (14, 22) but follow a slope of 0.0125 a layer, linear:14:94, which gives their "
        "figures. TFLOPs and ms: convention llm-viewer, A100-40GB peaks, no clock. executed: LLM "
        f"TFLOPs that aim_runtime runs. Source: {rows[0]['source']}."
    )
    columns = ("schedule", "TFLOPs", "ours", "ms", "ours", "executed")
    console().print(table("AIM's published table and ours", columns, lines, note))


def main() -> None:
    """Entry point of ``aim-cost``."""
    run(app)
