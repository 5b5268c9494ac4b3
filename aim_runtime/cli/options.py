"""Options that several commands of aim-runtime share, and what they choose."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aim_cost.cli.options import ModelOption
from aim_cost.models.workload import Workload
from aim_cost.render import console, say
from aim_cost.schedules.schedule import Schedule

if TYPE_CHECKING:
    import torch

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
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Write rows to this .json or .csv, each as soon as it is measured."),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Keep the good rows of --out, do the rest.")
]
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


def with_baseline(schedules: Iterable[Schedule]) -> list[Schedule]:
    """No reduction first, then those asked for; none where none is."""
    asked = list(schedules)
    return [Schedule(), *(one for one in asked if one != Schedule())] if asked else []


def chosen_attention(name: str | None) -> "AttentionBackend | None":
    """The backend of a name. Raises: MeasurementError for another name."""
    from aim_cost.checks import one_of
    from aim_runtime.errors import MeasurementError
    from aim_runtime.measurement.attention_backend import AttentionBackend

    if name is None:
        return None
    one_of(name, [backend.value for backend in AttentionBackend], "--attention", MeasurementError)
    return AttentionBackend(name)


@dataclass(frozen=True)
class LoadOptions:
    """A model, and where and how it is loaded."""

    model: ModelOption = "llava-onevision-qwen2-0.5b"
    layers: LayersOption = None
    vision_layers: VisionLayersOption = None
    dtype: FastestDtypeOption = None
    device: DeviceOption = None
    random_weights: WeightsOption = True

    def load(self, workload: Workload, schedules: Iterable[Schedule]) -> "Loaded":
        """Load the model, with a spinner. Without a dtype the fastest is taken, and said.

        Raises: an AimError where the workload or a schedule does not fit, before any weights are
            made.
        """
        from aim_runtime.kernels.fastest_dtype import fastest_dtype
        from aim_runtime.models.load import place_of, spec_of

        spec = spec_of(self.model, self.layers, self.vision_layers)
        workload.visual_input(spec)
        for schedule in schedules:
            schedule.resolve(spec, workload)
        place, dtype = place_of(self.device), self.dtype
        if dtype is None:
            fastest = fastest_dtype(place)
            dtype = fastest.dtype
            if fastest.reason:
                say(fastest.reason)
        return load_model(
            self.model,
            place,
            dtype,
            random_weights=self.random_weights,
            layers=self.layers,
            vision_layers=self.vision_layers,
        )


def load_model(
    model: str,
    device: "str | torch.device | None",
    dtype: str,
    *,
    random_weights: bool = False,
    layers: int | None = None,
    vision_layers: int | None = None,
) -> "Loaded":
    """``load``, with a spinner."""
    from aim_runtime.models.load import load

    with console(error=True).status(f"loading {model}"):
        return load(
            model,
            device,
            dtype,
            random_weights=random_weights,
            layers=layers,
            vision_layers=vision_layers,
        )
