"""Merge: how far the tokens of each frame are merged before the LLM."""

from dataclasses import dataclass
from typing import ClassVar

from aim_cost.checks import one_of, ratio, sequence, whole
from aim_cost.errors import ScheduleError
from aim_cost.schedules.language import Amount, Numbers, OneOf, Part, Word

_BY = {
    "similarity": "AIM's bipartite matching merges the most similar pairs",
    "random": "the same passes merge pairs drawn at random (baseline)",
    "uniform": "each merged token is the mean of an equal run of neighbours (baseline)",
}
_POSITIONS = {
    "recounted": "the tokens left are numbered without gaps, as AIM does",
    "kept": "a token keeps the position of its place, a merged one that of the token it went into",
}
MERGE_KINDS, POSITIONS = tuple(_BY), tuple(_POSITIONS)


@dataclass(frozen=True)
class Merge(Part):
    """Bipartite merging of each frame's tokens; exactly one field says how far.

    Args:
        retention: keep ``int(tokens * retention)`` of each frame's tokens, 0 < retention <= 1.
        tokens_per_frame: keep this many.
        passes: tokens left after each pass, e.g. (98, 49, 25).
        by: ``similarity``, AIM's bipartite matching; or as baselines ``random``, the same passes
            with pairs drawn at random, and ``uniform``, the mean of equal runs of neighbours.
        positions: ``recounted``, AIM's: what stays is numbered from the start again; or ``kept``: a
            token keeps the position it had, and a merged token that of the token merged into.
    A pass removes at most half of the tokens, so the first two are reached by halving passes and
    one partial pass. Raises: ScheduleError.
    """

    retention: float | None = None
    tokens_per_frame: int | None = None
    passes: tuple[int, ...] | None = None
    by: str = "similarity"
    positions: str = "recounted"

    AMOUNTS: ClassVar = (
        Amount(
            "",
            "retention",
            Numbers("0.25", whole=False),
            "this share of each frame's tokens stays, above 0 and at most 1",
        ),
        Amount(
            "frame",
            "tokens_per_frame",
            Numbers("24"),
            "this many tokens of each frame stay",
            formerly="tokens",
        ),
        Amount(
            "passes",
            "passes",
            Numbers("98,49,25", between=","),
            "so many tokens of each frame are left after each pass",
        ),
    )
    WORDS: ClassVar = (
        Word("by", "by", OneOf(_BY), "which tokens are merged"),
        Word("positions", "positions", OneOf(_POSITIONS), "the positions of the tokens left"),
    )

    def __post_init__(self) -> None:
        self._require_one_amount("{retention: 0.25}")
        if self.retention is not None:
            ratio(self.retention, "merge.retention", ScheduleError)
        if self.tokens_per_frame is not None:
            whole(self.tokens_per_frame, "merge.tokens_per_frame", ScheduleError)
        if self.passes is not None:
            object.__setattr__(self, "passes", sequence(self.passes, "merge.passes", ScheduleError))
            for i, left in enumerate(self.passes):
                whole(left, f"merge.passes[{i}]", ScheduleError)
        one_of(self.by, MERGE_KINDS, "merge.by", ScheduleError)
        one_of(self.positions, POSITIONS, "merge.positions", ScheduleError)

    def token_counts(self, tokens: int) -> tuple[int, ...]:
        """Tokens of one frame before merging and after each pass. Raises ScheduleError."""
        if self.passes is not None:
            counts = [tokens]
            for i, left in enumerate(self.passes):
                before = counts[-1]
                if not before - before // 2 <= left < before:
                    raise ScheduleError(
                        f"merge.passes[{i}]",
                        expected=f"{before - before // 2} to {before - 1} of {before} tokens "
                        "(one pass removes at most half)",
                        got=left,
                        fix="Insert a pass before it, or keep more.",
                    )
                counts.append(left)
            return tuple(counts)
        target = self._target(tokens)
        if not 1 <= target <= tokens:
            raise ScheduleError(
                "merge",
                expected=f"1 to {tokens} tokens kept of {tokens}",
                got=target,
                fix="Change the retention ratio or the count.",
            )
        return _passes(tokens, target)

    def other_counts(self, tokens: int) -> tuple[int, ...]:
        """``token_counts`` of a group that is smaller than others; at least one token stays.

        Raises: ScheduleError where passes name the counts, which are those of one size.
        """
        if self.passes is not None:
            raise ScheduleError(
                "merge.passes",
                expected="groups of one size",
                got=f"an image with a tile of {tokens} tokens beside larger ones",
                fix="Give a retention ratio or frame:N.",
            )
        return _passes(tokens, min(max(self._target(tokens), 1), tokens))

    def _target(self, tokens: int) -> int:
        if self.tokens_per_frame is not None:
            return self.tokens_per_frame
        assert self.retention is not None
        return int(tokens * self.retention)


def _passes(tokens: int, target: int) -> tuple[int, ...]:
    """Tokens before and after each pass down to ``target``."""
    counts = [tokens]
    while counts[-1] > target:
        counts.append(max(target, counts[-1] - counts[-1] // 2))
    return tuple(counts)
