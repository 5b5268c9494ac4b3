"""Options that several commands of aim-runtime share, and what they choose."""

from typing import TYPE_CHECKING, Annotated

import typer

from aim_cost.command_line import schedules_from
from aim_cost.report import console
from aim_cost.schedule import Schedule
from aim_cost.workload import Workload

if TYPE_CHECKING:
    from aim_runtime.load import Loaded

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


def chosen_schedules(
    suite: list[Schedule],
    schedules: list[str] | None,
    tokens_per_frame: int | None = None,
    **parts: str | None,
) -> list[Schedule]:
    """No reduction first, then those asked for; the ``suite`` when none is.

    Args: schedules, tokens_per_frame and parts, as of ``schedules_from``. Raises: ScheduleError.
    """
    asked = schedules_from(schedules, tokens_per_frame, **parts)
    if not asked:
        return suite
    return [Schedule(), *(schedule for schedule in asked if schedule != Schedule())]


def load_model(
    model: str,
    device: str | None,
    dtype: str,
    random_weights: bool,
    layers: int | None = None,
    vision_layers: int | None = None,
    workload: Workload | None = None,
) -> "Loaded":
    """``load``, with a spinner. Args: workload, refused before any weights are made."""
    from aim_runtime.load import load, spec_of

    with console(error=True).status(f"loading {model}"):
        if workload is not None:
            workload.visual_input(spec_of(model))
        return load(
            model,
            device,
            dtype,
            random_weights=random_weights,
            layers=layers,
            vision_layers=vision_layers,
        )
