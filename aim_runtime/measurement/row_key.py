"""What tells one row from another: the run that was asked for, and where and how it ran."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import LastLayer, Workload
from aim_cost.schedules.schedule import Schedule

Row = dict[str, Any]
Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RunKey:
    """One schedule on one workload of one model: what a prediction is made for.

    Args:
        model, layers, vision_layers: of the model that ran, with layers cut off where they were.
        frames, image_tokens, images, frame_size, text_tokens, batch: the workload.
        execution: ``eager``, ``cuda-graph``, ``masked`` or ``decode``.
        scoring: what computed the importance, ``torch`` or ``fused``.
        last_layer: as for ``patch``.
        schedule: its label.
    """

    model: str
    layers: int
    vision_layers: int
    dtype: str
    frames: int | None
    image_tokens: int | None
    images: Sizes | None
    frame_size: tuple[int, int] | None
    text_tokens: int
    batch: int
    execution: str
    scoring: str
    last_layer: LastLayer
    schedule: str

    @classmethod
    def to_run(
        cls,
        spec: ModelSpec,
        workload: Workload,
        schedule: Schedule,
        *,
        dtype: str,
        execution: str = "eager",
        scoring: str = "torch",
        last_layer: LastLayer = LastLayer.ALL,
    ) -> "RunKey":
        """The key of a run that is planned."""
        return cls(
            model=spec.name,
            layers=spec.text.num_hidden_layers,
            vision_layers=spec.vision.num_hidden_layers,
            dtype=dtype,
            frames=workload.frames,
            image_tokens=workload.image_tokens,
            images=workload.images,
            frame_size=workload.frame_size,
            text_tokens=workload.text_tokens,
            batch=workload.batch,
            execution=execution,
            scoring=scoring,
            last_layer=last_layer,
            schedule=schedule.label(),
        )

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "RunKey":
        """The key of a row that ``to_row`` is part of. Raises: KeyError for another row."""
        images, size = row.get("images"), row.get("frame_size")
        return cls(
            **{name: row[name] for name in _REQUIRED if name != "schedule"},
            # as it is written today: rows are told apart by it
            schedule=Schedule.read(row["schedule"]).label(),
            image_tokens=row.get("image_tokens"),
            images=tuple((height, width) for height, width in images) if images else None,
            frame_size=(size[0], size[1]) if size else None,
            scoring=row.get("scoring", "torch"),
            # rows that were written before there was a choice say nothing of the last layer
            last_layer=LastLayer.read(row.get("last_layer", "all")),
        )

    @property
    def workload(self) -> Workload:
        return Workload(
            text_tokens=self.text_tokens,
            frames=self.frames,
            image_tokens=self.image_tokens,
            batch=self.batch,
            frame_size=self.frame_size,
            images=self.images,
        )

    def parsed_schedule(self) -> Schedule:
        """The schedule that the label names. Raises: ScheduleError."""
        return Schedule.read(self.schedule, "schedule")

    def to_row(self) -> Row:
        """Flat, under the keys of estimates; images and frame_size only where they are given."""
        row: Row = {field.name: getattr(self, field.name) for field in fields(self)}
        row["last_layer"] = self.last_layer.value
        del row["images"], row["frame_size"]
        return row | visual_fields(self.workload)


def visual_fields(workload: Workload) -> Row:
    """What a row says of the pixels; under the keys of estimates, further ones where given."""
    row: Row = {"frames": workload.frames, "image_tokens": workload.image_tokens}
    if workload.images is not None:
        row["images"] = [list(size) for size in workload.images]
    if workload.frame_size is not None:
        row["frame_size"] = list(workload.frame_size)
    return row


_REQUIRED = (
    *("model", "layers", "vision_layers", "dtype", "frames", "text_tokens", "batch"),
    *("execution", "schedule"),
)


@dataclass(frozen=True)
class RowKey:
    """A run on a device, through one attention backend; ``visit`` counts repeats, from 1."""

    run: RunKey
    hardware: str
    attention_backend: str | None
    visit: int = 1

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "RowKey":
        """The key of a measured row. Raises: KeyError for another row."""
        return cls(
            RunKey.of(row), row["hardware"], row.get("attention_backend"), row.get("visit", 1)
        )

    def to_row(self) -> Row:
        place: Row = {"hardware": self.hardware, "attention_backend": self.attention_backend}
        return {**self.run.to_row(), **place, **({"visit": self.visit} if self.visit > 1 else {})}
