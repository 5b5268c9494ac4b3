"""The main job, end to end: published table, a real run, predicted beside measured.

``python -m benchmarks.demo [--video FILE]`` writes demo/validation.png, .json and .csv.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from aim_cost import cli as cost_cli
from aim_cost.command_line import run
from aim_cost.files import write_atomically
from aim_cost.report import Format, console, to_csv
from aim_cost.workload import Workload
from aim_runtime.load import default_device, load
from aim_runtime.selfcheck import selfcheck
from aim_runtime.suite import default_schedules
from aim_runtime.validate import validate
from aim_runtime.validate_report import validation_plot, validation_table
from aim_runtime.video import sample_frames
from benchmarks.make_clip import make_clip

OUT = Path("demo")
MODEL = "llava-onevision-qwen2-0.5b"
TEXT_TOKENS = 50
# two CPU cores run all 24 layers on four frames in about a second, a GPU on 32 in less
FRAMES = {"cpu": 4, "cuda": 32}

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
    check = selfcheck(device=device)
    screen.print(
        f"kept sets equal: {check['kept_sets_equal']}, greedy tokens equal: "
        f"{check['greedy_tokens_equal']}, largest logit difference "
        f"{check['max_logit_difference']:.1e} (random 8-layer Qwen2, fp32)"
    )

    screen.rule("3. LLaVA-OneVision with tokens merged and pruned: predicted and run")
    if video is None:
        video = OUT / "clip.mp4"
        make_clip(video)
    frames = sample_frames(video, FRAMES[device])
    loaded = load(MODEL, device, "bfloat16", random_weights=True)
    screen.print(
        f"{MODEL}: real dims, all {loaded.spec.text.num_hidden_layers} decoder layers, random "
        f"weights (time and FLOPs do not depend on their values); {len(frames)} frames of "
        f"{video.name}; {device}"
    )
    result = validate(
        loaded,
        Workload(text_tokens=TEXT_TOKENS, frames=len(frames)),
        default_schedules(loaded.spec.text.num_hidden_layers),
        video=frames,
    )
    screen.print(validation_table(result))
    write_atomically(OUT / "validation.json", json.dumps(result.to_dict(), indent=2).encode())
    write_atomically(OUT / "validation.csv", to_csv(result.rows).encode())
    validation_plot(result.rows, OUT / "validation.png", result.title)
    screen.print(f"Wrote {OUT}/validation.png, .json and .csv in {time.monotonic() - start:.0f} s.")
    raise typer.Exit(0 if result.summary["passed"] and check["passed"] else 1)


if __name__ == "__main__":
    run(app)
