"""Select: which visual tokens are kept before the LLM, for methods that choose instead of merge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aim_cost.checks import one_of, ratio, whole
from aim_cost.errors import ScheduleError
from aim_cost.ops.scores import LISTED_BY
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.language import Amount, Numbers, OneOf, Part, Word

_ACROSS_SIZES = tuple(name for name, score in VISUAL_SCORES.items() if score.across_sizes)
"""Scores whose cost depends on all tokens together, not on frames."""


@dataclass(frozen=True)
class Select(Part):
    """Keep some of a prompt's visual tokens before the LLM; exactly one field says how many.

    Args:
        retention: keep ``int(tokens * retention)`` of all, 0 < retention <= 1.
        tokens: keep this many of all.
        tokens_per_frame: keep this many of each frame.
        by: how they are ranked, a name of VISUAL_SCORES.
    Newline tokens are not counted and stay. Raises: ScheduleError.
    """

    retention: float | None = None
    tokens: int | None = None
    tokens_per_frame: int | None = None
    by: str = "uniform"

    AMOUNTS: ClassVar = (
        Amount(
            "",
            "retention",
            Numbers("0.25", whole=False),
            "this share of the prompt's visual tokens stays, above 0 and at most 1",
        ),
        Amount(
            "prompt",
            "tokens",
            Numbers("64"),
            "this many visual tokens of the prompt stay",
            formerly="tokens",
        ),
        Amount("frame", "tokens_per_frame", Numbers("49"), "this many tokens of each frame stay"),
    )
    WORDS: ClassVar = (
        Word(
            "score",
            "by",
            OneOf({name: score.summary for name, score in VISUAL_SCORES.items()}, LISTED_BY),
            "how the tokens are ranked",
        ),
    )

    def __post_init__(self) -> None:
        self._require_one_amount("{tokens: 64}")
        if self.retention is not None:
            ratio(self.retention, "select.retention", ScheduleError)
        for name in ("tokens", "tokens_per_frame"):
            if getattr(self, name) is not None:
                whole(getattr(self, name), f"select.{name}", ScheduleError)
        one_of(self.by, VISUAL_SCORES, "select.by", ScheduleError)

    def kept(self, groups: int, tokens: int, others: Sequence[tuple[int, int]] = ()) -> int:
        """Tokens kept of ``groups`` frames of ``tokens`` each. Raises ScheduleError.

        ``others``: further, smaller groups as (groups, tokens of each); as many tokens of each
        stay.
        """
        if others:
            one_of(self.by, _ACROSS_SIZES, "select.by of an image of unequal tiles", ScheduleError)
        everything = groups * tokens + sum(number * each for number, each in others)
        if self.tokens_per_frame is not None:
            most = self.tokens_per_frame
            kept = groups * most + sum(number * min(most, each) for number, each in others)
        elif self.tokens is not None:
            kept = self.tokens
        else:
            assert self.retention is not None
            kept = int(everything * self.retention)
        if not 1 <= kept <= everything:
            raise ScheduleError(
                "select",
                expected=f"1 to {everything} tokens kept of {everything}",
                got=kept,
                fix="Change the retention ratio or the count.",
            )
        return kept
