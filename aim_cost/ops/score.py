"""A way to rank tokens: its name, what it costs, whether it runs; and several of them by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aim_cost.checks import unused_name
from aim_cost.errors import ScheduleError
from aim_cost.ops.op import Op

LISTED_BY = "aim-cost methods --scores"
"""The command that lists the names of scores."""

OWN = "a score of one's own"
"""The source of scores that a user registers."""

_AnyScore = TypeVar("_AnyScore", bound="Score")


@dataclass(frozen=True)
class Score:
    """A way to rank visual tokens.

    Args:
        name: what a schedule calls it.
        summary: what it looks at, in a phrase.
        source: method or paper.
        ops: what it adds to the graph, by the sizes where it is computed.
        why_not_run: why ``aim_runtime`` has no code for it; empty where it has. A test holds both
            to each other.
    """

    name: str
    summary: str
    source: str
    ops: Callable[[Any], list[Op]]
    why_not_run: str = field(default="", kw_only=True)

    @property
    def runs(self) -> bool:
        """Whether ``aim_runtime`` has code for it."""
        return not self.why_not_run


class Scores(dict[str, _AnyScore]):
    """Scores by their names. One that is added later can be named in schedules from then on."""

    def require_free(self, name: str) -> None:
        """Raise ScheduleError unless a score of one's own may have this name: no other has it."""
        taken = (score.name for score in self.values() if score.source != OWN)
        unused_name(name, taken, "the name of a score", ScheduleError)

    @property
    def summaries(self) -> Mapping[str, str]:
        """The names and what each score looks at, of those that are there when it is read."""
        return _Summaries(self)


class _Summaries(Mapping[str, str]):
    def __init__(self, scores: Mapping[str, Score]) -> None:
        self._scores = scores

    def __getitem__(self, name: str) -> str:
        return self._scores[name].summary

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)


def by_name(*scores: _AnyScore) -> Scores[_AnyScore]:
    """The scores by their names."""
    return Scores((score.name, score) for score in scores)
