"""The plots by name, and the options that ``aim-cost plot`` passes to them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from aim_cost.case import Case, Estimate
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.schedules.schedule import Schedule


@dataclass(frozen=True)
class Request:
    """The options of ``aim-cost plot``.

    Args:
        plot: the name of the plot.
        cases: one for each device of ``--hardware``.
        schedules: at least one.
        accuracy: tables of own scores; none by default.
        benchmark: whose scores.
    """

    plot: str
    cases: tuple[Case, ...]
    schedules: tuple[Schedule, ...]
    accuracy: tuple[Path, ...] = ()
    benchmark: str = "videomme"

    def case(self) -> Case:
        """The only case. Raises: SpecError where several devices are named."""
        if len(self.cases) > 1:
            names = ",".join(case.device.name for case in self.cases)
            raise SpecError(
                "--hardware", expected=f"one for {self.plot}", got=names, fix="Name one."
            )
        return self.cases[0]

    def estimate(self) -> Estimate:
        """The only case under the only schedule. Raises: SpecError, ScheduleError for several."""
        if len(self.schedules) > 1:
            raise ScheduleError(
                "--schedule",
                expected=f"one for {self.plot}",
                got=len(self.schedules),
                fix="Keep one.",
            )
        return self.case().price(self.schedules[0])

    def estimates(self) -> list[Estimate]:
        """Every case without reduction and under each schedule."""
        lines = dict.fromkeys([Schedule(), *self.schedules])
        return [case.price(line) for case in self.cases for line in lines]


Draw = Callable[[Request], Figure]


@dataclass(frozen=True)
class Plot:
    """A plot of ``aim-cost plot``: what it shows in a few words, and the function that draws it."""

    shows: str
    draw: Draw


PLOTS: dict[str, Plot] = {}
"""The plots by the name that the command line knows."""


def plot(name: str, shows: str) -> Callable[[Draw], Draw]:
    """Register the decorated function as the plot ``name`` of ``aim-cost plot``.

    Raises: ValueError where another function has the name.
    """

    def register(draw: Draw) -> Draw:
        if name in PLOTS:
            raise ValueError(f"two plots have the name {name}")
        PLOTS[name] = Plot(shows, draw)
        return draw

    return register
