"""Which step of a campaign is next, and the whole plan for so many minutes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aim_cost.render import Row
from aim_runtime.campaigns.cost import Costs, Warmth
from aim_runtime.campaigns.step import PrefillStep, Step
from aim_runtime.campaigns.steps import repeat_of


@dataclass(frozen=True)
class Planned:
    """A step and the seconds that it is expected to take."""

    step: Step
    seconds: float

    def to_row(self) -> Row:
        return {
            "step": self.step.label,
            "seconds": round(self.seconds, 1),
            "rows": self.step.row_count,
            **self.step.key.to_row(),
        }


class Agenda:
    """The steps that are left in a call, and what they cost.

    Args:
        steps: in order, without those that are done.
        first: the step to repeat at the end, once another has run; None to repeat nothing.
        visit: of that repeat.
        started: whether imports and the like are over.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        first: PrefillStep | None,
        costs: Costs,
        *,
        visit: int = 2,
        started: bool = False,
    ) -> None:
        self.left = list(steps)
        self._costs, self._warmth = costs, Warmth(started)
        self._first = first
        self._repeat = repeat_of(first, visit) if first else None
        self.any_ran = self._ended = False

    def next(self, seconds_left: float) -> Planned | None:
        """The first step that fits and leaves time for the repeat; at last the repeat itself.

        A longer video waits for the shorter ones before it that run in the same way, for these
        tell whether it is worth its time. Returns: None when nothing fits.
        """
        if self._ended:
            return None
        for place, step in enumerate(self.left):
            if _waits(step, self.left[:place]):
                continue
            seconds = self._costs.seconds(step, self._warmth)
            warm = self._costs.after(step, self._warmth)
            reserved = self._costs.seconds(self._repeat, warm) if self._repeat else 0.0
            if seconds + reserved <= seconds_left:
                return Planned(step, seconds)
        if self._repeat and self.any_ran and self._first not in self.left:
            seconds = self._costs.seconds(self._repeat, self._warmth)
            if seconds <= seconds_left:
                return Planned(self._repeat, seconds)
        return None

    def shortest_s(self) -> float:
        """Seconds of the shortest step that is left, and of the repeat after it."""
        repeat_s = self._costs.seconds(self._repeat, self._warmth) if self._repeat else 0.0
        return repeat_s + min(self._costs.seconds(step, self._warmth) for step in self.left)

    def ran(self, step: Step, *, failed: bool = False) -> None:
        """Take a step off. What failed is not repeated."""
        if failed and step == self._first:
            self._repeat = None
        self._warmth = self._costs.after(step, self._warmth)
        if step == self._repeat:
            self._ended = True
        else:
            self.left.remove(step)
        self.any_ran = True


def plan(agenda: Agenda, seconds: float) -> list[Planned]:
    """What ``agenda`` will run if every step takes the time that is expected."""
    found: list[Planned] = []
    while (following := agenda.next(seconds)) is not None:
        found.append(following)
        seconds -= following.seconds
        agenda.ran(following.step)
    return found


def _waits(step: Step, before: Sequence[Step]) -> bool:
    return isinstance(step, PrefillStep) and any(
        isinstance(other, PrefillStep)
        and other.execution == step.execution
        and other.frames < step.frames
        for other in before
    )
