"""AIM's published efficiency tables, compared with what the formulas give."""

from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from aim_cost.case import Case, Estimate
from aim_cost.files.text import text_of
from aim_cost.files.yaml_text import yaml_tree
from aim_cost.models.workload import Workload
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import milli, tera


@dataclass(frozen=True)
class PublishedRow:
    """One printed row; ``tflops`` and ``prefill_ms`` are kept as the text that is printed.

    ``reproduced_by``: the pruning that gives the printed figures where the stated one does not.
    """

    label: str
    model: str
    workload: Workload
    schedule: Schedule
    tflops: str
    prefill_ms: str
    source: str
    hardware: str
    convention: str
    videomme: float | None = None
    reproduced_by: Prune | None = None

    def computed(self, schedule: Schedule | None = None) -> Estimate:
        """The row under its own convention, for the stated or another schedule."""
        case = Case(self.model, self.workload, self.hardware)
        return case.price(schedule or self.schedule, self.convention)

    def to_row(self) -> dict[str, Any]:
        """Published and computed figures, in the units of the paper, and the executed FLOPs."""
        computed = self.computed()
        executed = computed.case.price(self.schedule)
        tflops, milliseconds = _printed(computed)
        row: dict[str, Any] = {
            "label": self.label,
            "model": self.model,
            "schedule": self.schedule.label(),
            "published.tflops": self.tflops,
            "computed.tflops": tflops,
            "published.prefill_ms": self.prefill_ms,
            "computed.prefill_ms": milliseconds,
            "agrees": (tflops, milliseconds) == (self.tflops, self.prefill_ms),
            "executed.llm.flops": executed.phase("llm").flops,
            "executed.total.flops": executed.flops,
            "videomme": self.videomme,
            "source": self.source,
            "note": "",
        }
        if self.reproduced_by:
            other = replace(self.schedule, prune=self.reproduced_by)
            slope = 1 / (self.reproduced_by.linear[1] - self.reproduced_by.linear[0])  # type: ignore[index]
            tflops, milliseconds = _printed(self.computed(other))
            row["note"] = (
                f"printed with {self.schedule.label()}, but a slope of {slope:g} a layer "
                f"({other.label()}) gives {tflops} TFLOPs, {milliseconds} ms"
            )
        return row


def published_rows() -> list[PublishedRow]:
    """The rows that ship with the project, in the order of the paper."""
    table = yaml_tree(text_of(resources.files("aim_cost.papers") / "efficiency.yaml"))
    common = {key: table[key] for key in ("source", "hardware", "convention")}
    rows = []
    for row in table["rows"]:
        size = {k: row.pop(k, None) for k in ("frames", "image_tokens", "text_tokens")}
        reproduced_by = row.pop("reproduced_by", None)
        rows.append(
            PublishedRow(
                **common,
                **{
                    **row,
                    "workload": Workload(**size),
                    "schedule": Schedule.from_dict(row["schedule"]),
                    "reproduced_by": Prune(**reproduced_by) if reproduced_by else None,
                },
            )
        )
    return rows


def _printed(result: Estimate) -> tuple[str, str]:
    llm = result.phase("llm")
    return f"{tera(llm.flops):.2f}", f"{milli(llm.time_s):.2f}"
