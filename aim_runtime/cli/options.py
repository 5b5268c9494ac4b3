"""Options that several commands of aim-runtime share, and what they choose."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from aim_cost.cli.options import schedules_from
from aim_cost.models.workload import Workload
from aim_cost.render import console, say
from aim_cost.schedules.schedule import Schedule

if TYPE_CHECKING:
    from aim_runtime.measurement.attention_backend import AttentionBackend
    from aim_runtime.models.load import Loaded

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
FastestDtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="bfloat16, float16 or float32; by default the one that the device multiplies fastest.",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    bool,
    typer.Option(
        "--random-weights/--pretrained",
        help="Random weights on the real dims, or the checkpoint of that name or folder.",
    ),
]
RepeatsOption = Annotated[int, typer.Option("--repeats", help="Runs of each schedule.")]
DamagedOption = Annotated[
    bool,
    typer.Option("--damaged", help="Of a damaged video, take what comes before the damage."),
]
AttentionOption = Annotated[
    str | None,
    typer.Option(
        "--attention",
        help="cudnn, flash, efficient or math; by default torch chooses.",
        show_default=False,
    ),
]


def chosen_schedules(
    schedules: list[str] | None, tokens_per_frame: int | None = None, **parts: str | None
) -> list[Schedule]:
    """No reduction first, then those asked for; none where none is.

    Args: schedules, tokens_per_frame and parts, as of ``schedules_from``. Raises: ScheduleError.
    """
    asked = schedules_from(schedules, tokens_per_frame, **parts)
    if not asked:
        return []
    return [Schedule(), *(schedule for schedule in asked if schedule != Schedule())]


def chosen_attention(name: str | None) -> "AttentionBackend | None":
    """The backend of a name. Raises: MeasurementError for another name."""
    from aim_cost.checks import one_of
    from aim_runtime.errors import MeasurementError
    from aim_runtime.measurement.attention_backend import AttentionBackend

    if name is None:
        return None
    one_of(name, [backend.value for backend in AttentionBackend], "--attention", MeasurementError)
    return AttentionBackend(name)


def load_model(
    model: str,
    device: str | None,
    dtype: str | None,
    random_weights: bool,
    layers: int | None = None,
    vision_layers: int | None = None,
    workload: Workload | None = None,
    schedules: Iterable[Schedule] = (),
) -> "Loaded":
    """``load``, with a spinner.

    Args:
        dtype: None for the one in which the device multiplies fastest, which is said.
        workload, schedules: where they do not fit, refused before any weights are made.
    """
    from aim_runtime.kernels.fastest_dtype import fastest_dtype
    from aim_runtime.models.load import default_device, load, place_of, spec_of

    if workload is not None:
        spec = spec_of(model, layers, vision_layers)
        workload.visual_input(spec)
        for schedule in schedules:
            schedule.resolve(spec, workload)
    place = place_of(device or default_device())
    if dtype is None:
        fastest = fastest_dtype(place)
        dtype = fastest.dtype
        if fastest.reason:
            say(fastest.reason)
    with console(error=True).status(f"loading {model}"):
        return load(
            model,
            place,
            dtype,
            random_weights=random_weights,
            layers=layers,
            vision_layers=vision_layers,
        )
