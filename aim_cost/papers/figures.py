"""FLOPs figures that papers print for methods, and what the same schedules give here."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from aim_cost.case import Estimate
from aim_cost.conventions.convention import get_convention
from aim_cost.files.text import text_of
from aim_cost.files.yaml_text import yaml_tree
from aim_cost.methods.library import get_method
from aim_cost.methods.parameter import show_value
from aim_cost.models.model import ModelSpec, load_model_spec
from aim_cost.models.workload import Workload
from aim_cost.papers.efficiency import published_rows
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import tera

NO_REDUCTION = "none"
"""The name of the row without any reduction."""


@dataclass(frozen=True)
class Figure:
    """A printed count.

    Args:
        method: name of a method, or NO_REDUCTION.
        model: name of a preset.
        printed: in units of 10**12 MACs or FLOPs, as ``convention`` counts; digits as printed.
        gives: what the schedule gives, to the same digits; another number where ``reason`` says
            why.
        note: what had to be derived; empty where the paper states all.
        stated: the parameters as text.
    """

    method: str
    schedule: Schedule
    convention: str
    model: str
    workload: Workload
    printed: str
    gives: str
    source: str
    reason: str = ""
    note: str = ""
    stated: str = ""

    @property
    def remark(self) -> str:
        """Why ``gives`` is another number, or else what had to be derived; empty without either."""
        return self.reason or self.note

    def computed(self, result: Estimate) -> str:
        """The count of ``result`` to the digits of ``printed``."""
        return f"{tera(count_of(result)):.{len(self.printed.partition('.')[2])}f}"

    def is_of(self, model: ModelSpec, workload: Workload) -> bool:
        """Whether the figure is of this model and these visual tokens; the text may differ."""
        visual = (workload.frames, workload.image_tokens, workload.frame_size)
        own = (self.workload.frames, self.workload.image_tokens, self.workload.frame_size)
        return model == load_model_spec(self.model) and visual == own and workload.batch == 1


def count_of(result: Estimate) -> float:
    """What papers print: MACs or FLOPs of the LLM, as the convention counts."""
    flops = result.phase("llm").flops
    return flops // 2 if result.convention.counts_macs else flops


def published_figures() -> tuple[Figure, ...]:
    """All figures that ship with the project, AIM's own table included."""
    return (*_method_figures(), *_aim_figures())


@cache
def _method_figures() -> tuple[Figure, ...]:
    table = yaml_tree(text_of(resources.files("aim_cost.papers") / "figures.yaml"))
    return tuple(_figure(dict(row), table["workloads"]) for row in table["figures"])


def _figure(row: dict[str, Any], workloads: dict[str, dict[str, Any]]) -> Figure:
    size = dict(workloads[row.pop("workload")])
    given = row.pop("parameters", {})
    parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    name = size.pop("model")
    workload = Workload(**size)
    schedule = Schedule()
    if row["method"] != NO_REDUCTION:
        model = load_model_spec(name)
        schedule = get_method(row["method"]).schedule(model, workload, **parameters)
    get_convention(row["convention"])
    gives = row.pop("gives", row["printed"])
    stated = ", ".join(f"{k} {show_value(v)}" for k, v in parameters.items()) or "defaults"
    return Figure(
        schedule=schedule, model=name, workload=workload, gives=gives, stated=stated, **row
    )


@cache
def _aim_figures() -> tuple[Figure, ...]:
    """AIM's efficiency table without the rows that only merge, which belong to no method."""
    figures = []
    for row in published_rows():
        if row.schedule != Schedule() and row.schedule.prune is None:
            continue
        computed = row.to_row()
        figures.append(
            Figure(
                method="aim" if row.schedule != Schedule() else NO_REDUCTION,
                schedule=row.schedule,
                convention=row.convention,
                model=row.model,
                workload=row.workload,
                printed=row.tflops,
                gives=computed["computed.tflops"],
                source=row.source,
                reason=computed["note"],
                stated=row.label,
            )
        )
    return tuple(figures)


def find_figure(method: str, result: Estimate) -> Figure | None:
    """The figure of ``method`` with this schedule, convention, model and visual input; or None."""
    return next(
        (
            figure
            for figure in published_figures()
            if figure.method == method
            and figure.convention == result.convention.name
            and figure.schedule == result.schedule
            and figure.is_of(result.model, result.workload)
        ),
        None,
    )
