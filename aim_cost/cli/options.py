"""Options of the two command lines, groups of options, and the printing of errors."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from aim_cost.case import Case
from aim_cost.conventions.convention import CONVENTIONS
from aim_cost.errors import AimError, ScheduleError
from aim_cost.imports import missing_library
from aim_cost.models.vision_spec import parse_frame_size
from aim_cost.models.workload import Execution, LastLayer, Workload
from aim_cost.render import Format
from aim_cost.schedules.schedule import PARTS, Schedule
from aim_cost.studies.budget import KINDS

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", help="A preset (aim-cost models), a config.json, or owner/name on the hub."
    ),
]
FramesOption = Annotated[int | None, typer.Option("--frames", help="Video frames.")]
VideoFramesOption = Annotated[int, typer.Option("--frames", help="Video frames.")]
TextTokensOption = Annotated[
    int, typer.Option("--text-tokens", help="Tokens that are not visual, all of them kept.")
]
BatchOption = Annotated[int, typer.Option("--batch", help="Equal prompts at once.")]


def _part(name: str, what: str) -> Any:
    """The option of a part of a schedule, with the forms that it takes."""
    part = PARTS[name]
    words = ", ".join(f"{word.name}=" for word in part.WORDS)
    then = f"; then {words}" if words else ""
    text = f"{what}: {part.amounts()}{then} (docs/schedules.md)."
    return typer.Option(f"--{name.replace('_', '-')}", help=text)


MergeOption = Annotated[str | None, _part("merge", "Merging before the LLM")]
PerFrameOption = Annotated[
    int | None, typer.Option("--tokens-per-frame", help="Tokens of a frame after merging.")
]
PruneOption = Annotated[str | None, _part("prune", "Pruning inside the LLM")]
SelectOption = Annotated[str | None, _part("select", "Selection before the LLM")]
SampleOption = Annotated[str | None, _part("sample", "Fewer frames of a video")]
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
MethodsOption = Annotated[
    str,
    typer.Option(
        "--methods",
        help="Names with commas, fastv:k=3:r=0.75, a schedule file; all: those not named.",
    ),
]
ConventionsOption = Annotated[
    str,
    typer.Option(
        "--conventions", "--convention", help=f"All, or some of {', '.join(CONVENTIONS)}."
    ),
]
EqualOption = Annotated[
    str | None,
    typer.Option("--equal", help=f"Scale each method to one budget: {', '.join(KINDS)}."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget", help="Tokens, 10**12 FLOPs or ms; by default AIM's default schedule's."
    ),
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


@dataclass(frozen=True)
class PromptOptions:
    """The contents of a prompt."""

    frames: FramesOption = None
    image_tokens: ImageTokensOption = None
    image: ImageOption = None
    frame_size: FrameSizeOption = None
    text_tokens: TextTokensOption = 100

    def workload(self, default_frames: int, batch: int = 1) -> Workload:
        """The workload that they describe; without any pixels, a video of ``default_frames``.

        Raises: SpecError when options exclude each other.
        """
        frames = self.frames
        if frames is None and self.image_tokens is None and not self.image:
            frames = default_frames
        sizes = [parse_frame_size(size, "--image") for size in self.image or []]
        return Workload(
            text_tokens=self.text_tokens,
            frames=frames,
            image_tokens=self.image_tokens,
            batch=batch,
            frame_size=parse_frame_size(self.frame_size) if self.frame_size else None,
            images=tuple(sizes) or None,
        )


@dataclass(frozen=True)
class PartOptions:
    """The parts of a schedule that the runtime runs, an option each."""

    merge: MergeOption = None
    tokens_per_frame: PerFrameOption = None
    prune: PruneOption = None
    vision_merge: VisionMergeOption = None
    sample: SampleOption = None

    def one(self, schedule: str | None) -> Schedule:
        """The schedule that they and --schedule describe; without any, nothing is reduced.

        Raises: ScheduleError when options exclude each other.
        """
        return Schedule.from_options({"schedule": schedule, **self._given()})

    def all(self, schedules: list[str] | None) -> list[Schedule]:
        """Each --schedule, and the one that the other options describe, if any.

        Raises: ScheduleError when options exclude each other.
        """
        found = [Schedule.from_options({"schedule": schedule}) for schedule in schedules or []]
        is_given = any(part is not None for part in self._given().values())
        return [*found, self.one(None)] if is_given else found

    def _given(self) -> dict[str, str | None]:
        """The parts by name."""
        given = {name: getattr(self, name) for name in PARTS if hasattr(self, name)}
        if self.tokens_per_frame is None:
            return given
        if self.merge is not None:
            raise ScheduleError(
                "--tokens-per-frame",
                expected="no --merge beside it",
                got=f"--merge {self.merge}",
                fix="Keep one of the two.",
            )
        return given | {"merge": f"frame:{self.tokens_per_frame}"}


@dataclass(frozen=True)
class AllPartOptions(PartOptions):
    """All parts of a schedule."""

    select: SelectOption = None


@dataclass(frozen=True)
class MethodsOptions:
    """Methods to compare, how their FLOPs are counted, and what each may cost."""

    methods: MethodsOption = "aim,fastv,pyramiddrop,visionzip,uniform"
    conventions: ConventionsOption = "all"
    equal: EqualOption = None
    budget: BudgetOption = None


@dataclass(frozen=True)
class CaseOptions:
    """A model on a device."""

    model: ModelOption = "llava-onevision-qwen2-7b"
    hardware: HardwareOption = "h100-sxm"
    dtype: DtypeOption = "bfloat16"
    execution: ExecutionOption = "eager"
    calibration: CalibrationOption = None

    def case(
        self,
        workload: Workload,
        attention: str = "sdpa",
        scoring: str = "torch",
        last_layer: LastLayer = LastLayer.ALL,
    ) -> Case:
        """The case of a workload; the rest as of ``Execution``. Raises: SpecError, ProfileError."""
        execution = Execution(
            dtype=self.dtype,
            attention=attention,
            mode=self.execution,
            scoring=scoring,
            last_layer=last_layer,
        )
        return Case(self.model, workload, self.hardware, execution, self.calibration)
