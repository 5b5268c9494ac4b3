"""What the two command lines share: options, and how an error is shown."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aim_cost.errors import AimError, ScheduleError
from aim_cost.imports import missing_library
from aim_cost.models.vision_spec import parse_frame_size
from aim_cost.models.workload import LastLayer, Workload
from aim_cost.render import Format
from aim_cost.schedules.schedule import PARTS, Schedule

ModelOption = Annotated[
    str, typer.Option("--model", help="A preset (aim-cost models) or the path of a config.json.")
]
FramesOption = Annotated[int | None, typer.Option("--frames", help="Video frames.")]
TextTokensOption = Annotated[
    int, typer.Option("--text-tokens", help="Tokens that are not visual, all of them kept.")
]
BatchOption = Annotated[int, typer.Option("--batch", help="Equal prompts at once.")]


def _part(name: str, what: str) -> Any:
    """The option of a part of a schedule, with the forms that it takes."""
    part = PARTS[name]
    words = ", ".join(f"{word.name}=" for word in part.WORDS)
    text = f"{what}: {part.amounts()}; then {words} (docs/schedules.md)."
    return typer.Option(f"--{name.replace('_', '-')}", help=text)


MergeOption = Annotated[str | None, _part("merge", "Merging before the LLM")]
PerFrameOption = Annotated[
    int | None, typer.Option("--tokens-per-frame", help="Tokens of a frame after merging.")
]
PruneOption = Annotated[str | None, _part("prune", "Pruning inside the LLM")]
SelectOption = Annotated[str | None, _part("select", "Selection before the LLM")]
VisionMergeOption = Annotated[str | None, _part("vision_merge", "Merging in the vision tower")]
_SCHEDULE_HELP = "A schedule, e.g. 'merge 0.25, prune linear:14:22', or a YAML or JSON file"
ScheduleOption = Annotated[
    str | None, typer.Option("--schedule", help=f"{_SCHEDULE_HELP}.", show_default=False)
]
SchedulesOption = Annotated[
    list[str] | None,
    typer.Option("--schedule", help=f"{_SCHEDULE_HELP}; repeatable.", show_default=False),
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
    LastLayer,
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
    """Run a command line: an AimError becomes one line on stderr and exit status 2.

    So does an optional library that a command needs and that is not installed.
    """
    try:
        try:
            app()
        except ModuleNotFoundError as error:
            raise missing_library(error) or error from error
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
    schedule: str | None, tokens_per_frame: int | None = None, **parts: str | None
) -> Schedule:
    """The schedule that the options describe; without any, nothing is reduced.

    Args: parts, the options of parts by their names.
    Raises: ScheduleError when options exclude each other.
    """
    if tokens_per_frame is not None:
        if parts.get("merge") is not None:
            raise ScheduleError(
                "--tokens-per-frame",
                expected="no --merge beside it",
                got=f"--merge {parts['merge']}",
                fix="Keep one of the two.",
            )
        parts["merge"] = f"frame:{tokens_per_frame}"
    return Schedule.from_options({"schedule": schedule, **parts})


def schedules_from(
    schedules: list[str] | None, tokens_per_frame: int | None = None, **parts: str | None
) -> list[Schedule]:
    """All schedules that the options describe: each --schedule, and the one of the other options.

    Raises: ScheduleError.
    """
    asked = [schedule_from(schedule) for schedule in schedules or []]
    if any(part is not None for part in (tokens_per_frame, *parts.values())):
        asked.append(schedule_from(None, tokens_per_frame, **parts))
    return asked
