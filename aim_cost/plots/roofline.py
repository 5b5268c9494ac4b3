"""The ops of one prefill under the roofs of a device."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aim_cost.case import Estimate
from aim_cost.devices.roofline import Roofline
from aim_cost.plots.registry import Request, plot
from aim_cost.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    VERMILION,
    device,
    finish,
    new_figure,
    setting,
)
from aim_cost.timing.prefill_time import CalibratedTime
from aim_cost.units import tera

_LOOKS = {
    "vision.tower": ("o", ORANGE),
    "vision.projector": ("v", PURPLE),
    "merge": ("D", GREEN),
    "llm.layers": ("s", BLUE),
    "llm.head": ("^", GREY),
    "importance": ("P", VERMILION),
}


@dataclass(frozen=True)
class OpPoint:
    """Ops of one name and size: FLOPs and bytes of all of them, seconds on the device."""

    name: str
    phase: str
    flops: float
    bytes: float
    time_s: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes

    @property
    def flops_per_s(self) -> float:
        """Attained FLOP/s."""
        return self.flops / self.time_s


def op_points(result: Estimate) -> list[OpPoint]:
    """The ops of an estimate, equal ones together; waiting for the host is left out."""
    ops, model = list(result.graph), result.time_model
    if isinstance(model, CalibratedTime):
        times_s = model.model.times(ops).time_s
    else:
        roofline = _roofline(result)
        times_s = np.array([roofline.op_time_s(op) for op in ops])
    found: dict[tuple[object, ...], OpPoint] = {}
    for op, time_s in zip(ops, times_s, strict=True):
        key = (op.phase, op.name, op.flops, op.bytes)
        old = found.get(key, OpPoint(op.name, op.phase, 0, 0, 0))
        found[key] = OpPoint(
            name=op.name,
            phase=op.phase,
            flops=old.flops + op.flops,
            bytes=old.bytes + op.bytes,
            time_s=old.time_s + float(time_s),
        )
    return list(found.values())


def roofline(result: Estimate) -> Figure:
    """Arithmetic intensity over attained FLOP/s, a point an op; area is the share of time."""
    points = op_points(result)
    busy_s = sum(point.time_s for point in points)
    shown = [point for point in points if point.flops > 0]
    phases = {point.phase for point in shown}
    figure, axis = new_figure(PAGE, 4.2)
    roof = _roofline(result)
    _roofs(axis, roof, [point.intensity for point in shown])
    for phase, (marker, colour) in _LOOKS.items():
        mine = [point for point in shown if point.phase == phase]
        axis.scatter(
            [point.intensity for point in mine],
            [tera(point.flops_per_s) for point in mine],
            s=[12 + 2400 * point.time_s / busy_s for point in mine],
            marker=marker,
            color=colour,
            alpha=0.6,
            edgecolor="black",
            linewidth=0.5,
            label=phase,
        )
    axis.set(xscale="log", yscale="log")
    axis.set_xlabel("arithmetic intensity (FLOPs per byte of least traffic)")
    axis.set_ylabel("attained TFLOP/s")
    uncounted = sum(point.time_s for point in points if point.flops == 0) / busy_s
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markeredgecolor="black")
        for phase, (marker, colour) in _LOOKS.items()
        if phase in phases
    ]
    title = f"{device(result)}\n{setting(result)}; schedule: {result.schedule.label()}"
    small = (
        f"Area: share of device time. Not shown: {100 * uncounted:.0f} % of it, ops without "
        "counted FLOPs (norms, softmax, elementwise, sorting). Roofs: datasheet. Times: "
        f"{result.ttft.source.noun}, without waits for the host."
    )
    return finish(figure, title, small, (handles, [name for name in _LOOKS if name in phases]))


@plot("roofline", "the ops of one prefill under the roofs of a device")
def _draw(request: Request) -> Figure:
    return roofline(request.estimate())


def _roofline(result: Estimate) -> Roofline:
    return Roofline.of(result.device, result.execution.dtype)


def _roofs(axis, roof: Roofline, intensities: list[float]) -> None:  # type: ignore[no-untyped-def]
    """Both ceilings, and the ridge point where they meet."""
    ridge = roof.flops_per_s / roof.bytes_per_s
    ends = np.array([min(*intensities, ridge) / 2, ridge, max(*intensities, ridge) * 2])
    height = tera(1) * np.minimum(roof.flops_per_s, ends * roof.bytes_per_s)
    axis.plot(ends, height, color="black", linewidth=1.4)
    axis.axvline(ridge, color="0.4", linewidth=0.9, linestyle=":")
    axis.text(
        x=0.99,
        y=0.02,
        s=f"roofs {tera(roof.flops_per_s):.0f} TFLOP/s and {tera(roof.bytes_per_s):.2f} TB/s\n"
        f"ridge (dotted) {ridge:.0f} FLOPs/B",
        transform=axis.transAxes,
        ha="right",
        va="bottom",
        fontsize=8,
    )
