"""Select: which visual tokens are kept before the LLM, for methods that choose instead of merge."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

from aim_cost.checks import one_of, ratio, whole
from aim_cost.errors import ScheduleError
from aim_cost.ops.score import LISTED_BY
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.language import Amount, Numbers, OneOf, Part, Word
from aim_cost.schedules.trace import Ranked


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
            OneOf(VISUAL_SCORES.summaries, LISTED_BY),
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

    def ranked(self, items: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[Ranked, ...]]:
        """What is ranked of each image or video of a prompt, each by itself.

        A share or a count of the prompt is dealt out in proportion to their tokens, so that the sum
        is exact.
        Args: items, the groups of each: (groups, tokens of each).
        Raises: ScheduleError.
        """
        if self.tokens_per_frame is not None:
            most = self.tokens_per_frame
            parts = [
                tuple(Ranked(groups, tokens, min(most, tokens)) for groups, tokens in item)
                for item in items
            ]
            self._check(items, sum(r.sets * r.kept for item in parts for r in item))
            return parts
        sizes = [sum(groups * tokens for groups, tokens in item) for item in items]
        everything = sum(sizes)
        kept = self.tokens
        if kept is None:
            assert self.retention is not None
            kept = int(everything * self.retention)
        self._check(items, kept)
        bounds = [kept * end // everything for end in accumulate(sizes, initial=0)]
        return [
            (Ranked(1, size, after - before, item[0][0] if len(item) == 1 else 1),)
            for item, size, (before, after) in zip(items, sizes, pairwise(bounds), strict=True)
        ]

    def check_images(self) -> None:
        """Whether images can be ranked, whose crops are no frames. Raises: ScheduleError."""
        if VISUAL_SCORES[self.by].least_frames > 1:
            raise ScheduleError(
                f"select.by {self.by}",
                expected="a video, whose frames it compares",
                got="an image",
                fix="Give a video, or choose another score.",
            )

    def _check(self, items: Sequence[Sequence[tuple[int, int]]], kept: int) -> None:
        everything = sum(groups * tokens for item in items for groups, tokens in item)
        if not 1 <= kept <= everything:
            raise ScheduleError(
                "select",
                expected=f"1 to {everything} tokens kept of {everything}",
                got=kept,
                fix="Change the retention ratio or the count.",
            )
        if any(len(item) > 1 for item in items):
            known = [name for name, score in VISUAL_SCORES.items() if score.across_sizes]
            one_of(self.by, known, "select.by of an image of unequal tiles", ScheduleError)
        frames = min(sum(groups for groups, _ in item) for item in items)
        least = VISUAL_SCORES[self.by].least_frames
        if frames < least:
            raise ScheduleError(
                f"select.by {self.by}",
                expected=f"at least {least} frames, which it compares",
                got=frames,
                fix="Give a video, or choose another score.",
            )
