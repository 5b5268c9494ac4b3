"""VisualItem: the tokens of one image or video in a prompt, and those that a schedule leaves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from aim_cost.models.workload import Groups, VisualInput
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.trace import Ranked

MODALITIES = ("image", "video")


@dataclass(frozen=True)
class Block:
    """Groups of one size: frames, crops, temporal patches, each merged by itself.

    Args:
        groups, tokens: how many there are, and the tokens of each.
        places: where their tokens stand in the item, group after group; a range is one of step 1.
    """

    groups: int
    tokens: int
    places: Sequence[int]


@dataclass(frozen=True)
class VisualItem:
    """One image or video of a prompt.

    Args:
        tokens: that it is encoded as, before merging.
        blocks: what is merged or chosen from, the largest groups first; tokens in none of them,
            newlines, stay.
        in_order: what is left stands in the order of its places, as the grid of an image needs;
            else block after block as merging leaves it, then the tokens in no block.
        missing: places among its placeholders whose frames are not encoded, rising.
    """

    tokens: int
    blocks: tuple[Block, ...]
    in_order: bool = False
    missing: tuple[int, ...] = ()

    @property
    def run(self) -> int:
        """Its placeholders in the caller's prompt."""
        return self.tokens + len(self.missing)

    @property
    def all_groups(self) -> int:
        """The groups of a video, those that are not encoded among them."""
        (block,) = self.blocks
        return block.groups + len(self.missing) // block.tokens

    @cached_property
    def standing(self) -> list[int]:
        """Where each token that is encoded stands among the placeholders."""
        missing = set(self.missing)
        return [place for place in range(self.run) if place not in missing]

    def merged_tokens(self, merge: Merge | None) -> int:
        """Tokens that merging leaves. Raises: ScheduleError."""
        if merge is None:
            return self.tokens
        lost = (b.groups * (b.tokens - group_counts(merge, b.tokens)[-1]) for b in self.blocks)
        return self.tokens - sum(lost)

    @property
    def groups(self) -> Groups:
        """The groups of each block."""
        return tuple((block.groups, block.tokens) for block in self.blocks)

    @cached_property
    def unmerged_places(self) -> list[int]:
        """Places of the tokens in no block."""
        merged = {place for block in self.blocks for place in block.places}
        return [place for place in range(self.tokens) if place not in merged]


def selected_tokens(item: VisualItem, ranked: Sequence[Ranked]) -> int:
    """Tokens of an item that select leaves, newlines among them."""
    kept = sum(part.sets * part.kept for part in ranked)
    return kept + item.tokens - sum(groups * tokens for groups, tokens in item.groups)


@lru_cache
def equal_groups(groups: int, tokens: int, newline_tokens: int = 0) -> VisualItem:
    """Frames or crops of ``tokens`` in a row, then newlines after the last."""
    block = Block(groups, tokens, range(groups * tokens))
    return VisualItem(groups * tokens + newline_tokens, (block,))


@lru_cache
def fewer_groups(video: VisualItem, kept: tuple[int, ...]) -> VisualItem:
    """A video of which the groups ``kept`` alone are encoded, numbered from 0 and rising."""
    (block,) = video.blocks
    if len(kept) == block.groups:
        return video
    encoded = set(kept)
    missing = tuple(
        place
        for number, start in enumerate(range(0, len(block.places), block.tokens))
        if number not in encoded
        for place in block.places[start : start + block.tokens]
    )
    left = equal_groups(len(kept), block.tokens, video.tokens - len(block.places))
    return replace(left, missing=missing)


def group_counts(merge: Merge, tokens: int) -> tuple[int, ...]:
    """Tokens of a group of ``tokens`` before merging and after each pass. Raises: ScheduleError."""
    return merge.token_counts(tokens) if merge.passes else merge.other_counts(tokens)


def visual_input(items: Sequence[VisualItem]) -> VisualInput:
    """The items of one prompt together, for ``Schedule.resolve_visual``."""
    groups: Counter[int] = Counter()
    for block in (block for item in items for block in item.blocks):
        groups[block.tokens] += block.groups
    merged = sum(tokens * number for tokens, number in groups.items())
    newlines = sum(item.tokens for item in items) - merged
    largest, *others = sorted(groups.items(), reverse=True) or [(0, 0)]
    several = tuple(item.groups for item in items) if len(items) > 1 else ()
    return VisualInput(largest[1], largest[0], newlines, tuple((n, t) for t, n in others), several)
