"""RowKey: the identity of a row, which is the run that was asked for, and where and how it ran."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import LastLayer, Workload
from aim_cost.render import Row
from aim_cost.schedules.schedule import Schedule
from aim_runtime.measurement.run_kind import RunKind


@dataclass(frozen=True)
class RunKey:
    """One schedule on one workload of one model: what a prediction is made for.

    Args:
        model, layers, vision_layers: of the model that ran, with layers cut off where they were.
        scoring: what computed the importance, ``torch`` or ``fused``.
        last_layer: as for ``patch``.
    """

    model: str
    layers: int
    vision_layers: int
    dtype: str
    workload: Workload
    execution: RunKind
    scoring: str
    last_layer: LastLayer
    schedule: Schedule

    @classmethod
    def to_run(
        cls,
        spec: ModelSpec,
        workload: Workload,
        schedule: Schedule,
        *,
        dtype: str,
        execution: RunKind = RunKind.EAGER,
        scoring: str = "torch",
        last_layer: LastLayer = LastLayer.ALL,
    ) -> "RunKey":
        """The key of a run that is planned."""
        return cls(
            model=spec.name,
            layers=spec.text.num_hidden_layers,
            vision_layers=spec.vision.num_hidden_layers,
            dtype=dtype,
            workload=workload,
            execution=execution,
            scoring=scoring,
            last_layer=last_layer,
            schedule=schedule,
        )

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "RunKey":
        """The key of a row that ``to_row`` is part of. Raises: KeyError for another row."""
        images, size = row.get("images"), row.get("frame_size")
        return cls(
            **{name: row[name] for name in ("model", "layers", "vision_layers", "dtype")},
            workload=Workload(
                text_tokens=row["text_tokens"],
                frames=row["frames"],
                image_tokens=row.get("image_tokens"),
                batch=row["batch"],
                frame_size=(size[0], size[1]) if size else None,
                images=tuple((height, width) for height, width in images) if images else None,
            ),
            execution=RunKind(row["execution"]),
            scoring=row.get("scoring", "torch"),
            # rows that were written before there was a choice say nothing of the last layer
            last_layer=LastLayer.read(row.get("last_layer", "all")),
            schedule=Schedule.read(row["schedule"], "schedule"),
        )

    def to_row(self) -> Row:
        """Flat, under the keys of estimates; images and frame_size only where they are given."""
        workload = self.workload
        row: Row = {
            "model": self.model,
            "layers": self.layers,
            "vision_layers": self.vision_layers,
            "dtype": self.dtype,
            "frames": workload.frames,
            "image_tokens": workload.image_tokens,
            "text_tokens": workload.text_tokens,
            "batch": workload.batch,
            "execution": self.execution.value,
            "scoring": self.scoring,
            "last_layer": self.last_layer.value,
            "schedule": self.schedule.label(),
        }
        if workload.images is not None:
            row["images"] = [list(size) for size in workload.images]
        if workload.frame_size is not None:
            row["frame_size"] = list(workload.frame_size)
        return row


@dataclass(frozen=True)
class RowKey:
    """A run on a device, through one attention backend.

    Args:
        visit: counts repeats, from 1.
        answer_tokens: of the answer; 1 is the prefill alone, which gives the first of them.
    """

    run: RunKey
    hardware: str
    attention_backend: str | None
    visit: int = 1
    answer_tokens: int = 1

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "RowKey":
        """The key of a measured row. Raises: KeyError for another row."""
        return cls(
            RunKey.of(row),
            row["hardware"],
            row.get("attention_backend"),
            row.get("visit", 1),
            row.get("answer_tokens", 1),
        )

    def to_row(self) -> Row:
        place: Row = {"hardware": self.hardware, "attention_backend": self.attention_backend}
        beyond_one = {"visit": self.visit, "answer_tokens": self.answer_tokens}
        more = {name: number for name, number in beyond_one.items() if number > 1}
        return {**self.run.to_row(), **place, **more}
