"""The main job, end to end: published table, a real run, predicted beside measured.

``python -m benchmarks.demo [--video FILE]`` writes demo/validation.png, .json and .csv.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from aim_cost.case import estimate
from aim_cost.cli import main as cost_cli
from aim_cost.cli.options import run
from aim_cost.files import write_atomically
from aim_cost.models.model import ModelSpec, load_model_spec, preset_config
from aim_cost.models.workload import Execution, Workload
from aim_cost.render import Format, console, to_csv
from aim_runtime.kernels.fastest_dtype import fastest_dtype
from aim_runtime.kernels.probe import probe
from aim_runtime.models.load import cut_layers, default_device, load
from aim_runtime.prompts.video import sample_frames
from aim_runtime.validation.plots import validation_plot
from aim_runtime.validation.selfcheck import selfcheck
from aim_runtime.validation.suite import default_schedules
from aim_runtime.validation.table import validation_table
from aim_runtime.validation.validate import validate
from benchmarks.make_clip import make_clip

OUT = Path("demo")
MODEL = "llava-onevision-qwen2-0.5b"
TEXT_TOKENS = 50
FRAMES = {"cpu": 4, "cuda": 32}
REPEATS = {"cpu": 3, "cuda": 10}
BUDGET_S = 120
# what a CPU reaches of its own GEMM rate over a whole prefill, roughly: elementwise kernels cost
EFFICIENCY = 0.4

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def demo(
    video: Annotated[
        Path | None, typer.Option(help="A clip of yours instead of the made one.")
    ] = None,
) -> None:
    """Reproduce, run, compare."""
    screen, start = console(), time.monotonic()
    device = default_device()
    screen.rule("1. AIM's published efficiency table, and ours")
    cost_cli.published_table(Format.table)

    screen.rule("2. Does dropping tokens equal masking them?")
    check = selfcheck(device=device).total
    largest = check.max_logit_difference
    shown = "not finite" if largest is None else f"{largest:.1e}"
    screen.print(
        f"kept sets equal: {check.kept_sets_equal}, greedy tokens equal: "
        f"{check.greedy_tokens_equal}, largest logit difference "
        f"{shown} (random 8-layer Qwen2, fp32)"
    )

    screen.rule("3. LLaVA-OneVision with tokens merged and pruned: predicted and run")
    if video is None:
        video = OUT / "clip.mp4"
        make_clip(video)
    workload = Workload(text_tokens=TEXT_TOKENS, frames=FRAMES[device])
    frames = sample_frames(video, FRAMES[device])
    dtype, layers = _size(device, workload)
    loaded = load(MODEL, device, dtype, random_weights=True, layers=layers)
    text, full = loaded.spec.text, load_model_spec(MODEL)
    screen.print(
        f"{MODEL} on this {device}, {dtype}, random weights (time and FLOPs do not depend on "
        f"their values), {len(frames)} frames of {video.name}. Real dims; "
        f"{text.num_hidden_layers} of {full.text.num_hidden_layers} decoder layers and "
        f"{loaded.spec.vision.num_hidden_layers} of {full.vision.num_hidden_layers} vision "
        f"layers, as many as fit {BUDGET_S} s here."
    )
    result = validate(
        loaded,
        workload,
        default_schedules(loaded.spec, workload),
        repeats=REPEATS[device],
        video=frames,
    )
    screen.print(validation_table(result))
    write_atomically(OUT / "validation.json", json.dumps(result.to_dict(), indent=2).encode())
    write_atomically(OUT / "validation.csv", to_csv(result.to_rows()).encode())
    validation_plot(result.rows, OUT / "validation.png", result.title)
    screen.print(f"Wrote {OUT}/validation.png, .json and .csv in {time.monotonic() - start:.0f} s.")
    raise typer.Exit(0 if result.passed and check.passed else 1)


def _size(device: str, workload: Workload) -> tuple[str, int]:
    """The faster dtype of this device, and how many layers can be run within the budget."""
    place = torch.device(device)
    fastest = fastest_dtype(place)
    dtype = fastest.dtype
    if device == "cuda":
        return dtype, load_model_spec(MODEL).text.num_hidden_layers
    console().print(fastest.reason)
    profile = probe(place, dtype)
    flops = BUDGET_S * EFFICIENCY * profile.peak_flops_per_s(dtype)
    config = preset_config(MODEL)
    most = config["text_config"]["num_hidden_layers"]
    for layers in range(most, 2, -1):
        spec = ModelSpec.from_hf_config(cut_layers(config, layers))
        wanted = sum(
            estimate(spec, workload, schedule, profile, Execution(dtype)).flops
            for schedule in default_schedules(spec, workload)
        )
        if wanted * (1 + REPEATS[device]) <= flops:
            return dtype, layers
    return dtype, 2


if __name__ == "__main__":
    run(app)
