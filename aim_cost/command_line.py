"""What the two command lines share: options, and how an error is shown."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from aim_cost.errors import AimError, ScheduleError
from aim_cost.report import Format
from aim_cost.schedule import Schedule
from aim_cost.vision_spec import parse_frame_size
from aim_cost.workload import Workload

ModelOption = Annotated[
    str, typer.Option("--model", help="A preset (aim-cost models) or the path of a config.json.")
]
FramesOption = Annotated[int | None, typer.Option("--frames", help="Video frames.")]
TextTokensOption = Annotated[
    int, typer.Option("--text-tokens", help="Tokens that are not visual, all of them kept.")
]
BatchOption = Annotated[int, typer.Option("--batch", help="Equal prompts at once.")]
MergeOption = Annotated[
    str | None,
    typer.Option(
        "--merge", help="Merging: a retention ratio, tokens:N or passes:N,N; then /random, /kept."
    ),
]
PerFrameOption = Annotated[
    int | None, typer.Option("--tokens-per-frame", help="Tokens of a frame after merging.")
]
PruneOption = Annotated[
    str | None,
    typer.Option(
        "--prune", help="Pruning: linear:L1:L2, ratios:R,R or tokens:N,N; then /SCORE, /inject:L."
    ),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        "--select", help="Selection before the LLM: a ratio, tokens:N or frame:N; then /SCORE."
    ),
]
VisionMergeOption = Annotated[
    str | None,
    typer.Option(
        "--vision-merge",
        help="Merging in the vision tower: N tokens of a frame a layer, or N:FIRST-LAST; /plain.",
    ),
]
ScheduleOption = Annotated[
    Path | None, typer.Option("--schedule", help="A schedule as YAML or JSON.", show_default=False)
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the answer.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="bfloat16, float16 or float32.")]
HardwareOption = Annotated[
    str,
    typer.Option("--hardware", help="A profile (aim-cost hardware) or the path of a YAML file."),
]
ImageTokensOption = Annotated[
    int | None,
    typer.Option("--image-tokens", help="An image of that many visual tokens, not a video."),
]
ImageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        help="An image of HEIGHTxWIDTH pixels, as the model's processor takes it; repeatable.",
    ),
]
FrameSizeOption = Annotated[
    str | None,
    typer.Option(
        "--frame-size", help="HEIGHTxWIDTH in pixels, for towers that take any (Qwen: 224x224)."
    ),
]
ExecutionOption = Annotated[
    str,
    typer.Option(
        "--execution", help="eager (transformers as it is), cuda-graph, or ideal (roofline)."
    ),
]
LastLayerOption = Annotated[
    str,
    typer.Option(
        "--last-layer",
        help="all (transformers as it is), or needed: keys and values of all tokens, the rest of "
        "the last alone.",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option("--calibration", help="A calibration of your own (aim-cost calibrate)."),
]


def new_app(help_text: str) -> typer.Typer:
    """A command line with our habits: no traceback decoration, help when called bare."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def run(app: typer.Typer) -> None:
    """Run a command line: an AimError becomes one line on stderr and exit status 2."""
    try:
        app()
    except AimError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def workload_from(
    text_tokens: int,
    batch: int,
    frames: int | None,
    image_tokens: int | None,
    image: list[str] | None,
    frame_size: str | None,
    default_frames: int,
) -> Workload:
    """The workload that the options describe; without any, a video of ``default_frames``.

    Raises: SpecError when options exclude each other.
    """
    if frames is None and image_tokens is None and not image:
        frames = default_frames
    return Workload(
        text_tokens=text_tokens,
        frames=frames,
        image_tokens=image_tokens,
        batch=batch,
        frame_size=parse_frame_size(frame_size) if frame_size else None,
        images=tuple(parse_frame_size(size, "--image") for size in image) if image else None,
    )


def schedule_from(
    merge: str | None,
    tokens_per_frame: int | None,
    prune: str | None,
    path: Path | None,
    select: str | None = None,
    vision_merge: str | None = None,
) -> Schedule:
    """The schedule that the options describe; without any, nothing is reduced.

    Raises: ScheduleError when options exclude each other.
    """
    short_forms = merge, prune, select, vision_merge
    if path is not None and (any(short_forms) or tokens_per_frame is not None):
        raise ScheduleError(
            "--schedule",
            expected="no other schedule option beside it",
            got="--merge, --tokens-per-frame, --select, --prune or --vision-merge",
            fix="Put everything into the file, or leave it out.",
        )
    if path is not None:
        return Schedule.load(path)
    if tokens_per_frame is not None:
        if merge:
            raise ScheduleError(
                "--tokens-per-frame",
                expected="no --merge beside it",
                got=f"--merge {merge}",
                fix="Keep one of the two.",
            )
        merge = f"tokens:{tokens_per_frame}"
    return Schedule.parse(merge, prune, select, vision_merge)
