"""Reducing the features of images and videos, those of equal ones at once: merging or choosing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from aim_cost.schedules.merge import Merge
from aim_cost.schedules.trace import Ranked
from aim_runtime.errors import PatchError
from aim_runtime.models.visual import VisualItem, group_counts
from aim_runtime.prompts.encoded import Again, Encoded, Items
from aim_runtime.reduction.merge import Plan, merge_passes
from aim_runtime.reduction.select import take_tokens
from aim_runtime.seams import lack_newlines
from aim_runtime.selection import SELECTIONS, Candidates, Kept
from aim_runtime.selection.tower import TowerAttention

Features = Tensor | list[Tensor]
"""Of several items: [items, tokens, H], or a list of [tokens, H] or of [frames, tokens, H]."""

Rows = Tensor | list[Tensor]
"""What is left of each of several items: [items, left, H], or a list of [left, H]."""


class Left(NamedTuple):
    """What is left of equal items.

    Args: features, [items, left, H]; places, int64 [items, left], where in its item each token
        stood; again, what does the same to other features of the items.
    """

    features: Tensor
    places: Tensor
    again: Again


def whole_counts(items: Items) -> dict[int, tuple[int, ...]]:
    """``counts`` of ``Encoded`` where nothing is merged."""
    return {block.tokens: (block.tokens,) for item in items for block in item.blocks}


def merge_features(features: Features, items: Items, merge: Merge) -> tuple[Rows, Encoded]:
    """Merge the features of ``items``; returns what is left of each, [left, H]."""
    counts = whole_counts(items)

    def merged(stack: Tensor, first: int) -> Left:
        return merge_item(stack, items[first], merge, counts)

    rows, places, again = _of_equal_items(features, items, merged)
    return rows, Encoded(items, counts, places, again=again)


def select_features(
    features: Features,
    items: Items,
    ranked: Sequence[tuple[Ranked, ...]],
    by: str,
    tower: TowerAttention | None,
    texts: Sequence[Tensor],
) -> tuple[Rows, Encoded]:
    """Select among the features of ``items``; returns what is left of each, [left, H].

    Args:
        ranked: of each item.
        by: a name of SELECTIONS.
        tower, texts: as in Candidates, of all items.
    """
    selected: list[tuple[Ranked, ...]] = []
    views = [sum(groups for groups, _ in item.groups) for item in items]

    def chosen(stack: Tensor, first: int) -> Left:
        after = first + len(stack)
        here = tower
        if tower is not None:
            start = sum(views[:first])
            here = tower.take(slice(start, start + sum(views[first:after])))
        left, places, parts = choose_item(
            stack, items[first], ranked[first], by, here, tuple(texts[first:after])
        )
        selected.extend([parts] * len(stack))
        return Left(left, places, partial(take_tokens, index=places))

    kinds = list(zip(items, ranked, strict=True))
    rows, places, again = _of_equal_items(features, kinds, chosen)
    return rows, Encoded(items, whole_counts(items), places, tuple(selected), again)


def like(features: Features, rows: Rows, items: Items) -> Features:
    """What is left of each item in the form of ``features``: as a tensor, or as a list.

    A tensor whose rows differ in length is one row, which the model flattens anyway.
    Raises: PatchError where the model itself appends a newline to each row.
    """
    if not isinstance(features, Tensor):
        by_frame = features[0].dim() == 3
        return [row.unsqueeze(0) for row in rows] if by_frame else list(rows)
    if isinstance(rows, Tensor):
        return rows
    if len({len(row) for row in rows}) == 1:
        return torch.stack(list(rows))
    if lack_newlines(features, items[0].tokens):
        raise PatchError(
            "schedule.select",
            expected="as many tokens of each video",
            got=", ".join(str(len(row)) for row in rows),
            fix="Keep frame:N tokens, or a number that the videos of a prompt share evenly.",
        )
    return torch.cat(list(rows)).unsqueeze(0)


def _of_equal_items(
    features: Features, kinds: Sequence[object], reduce: Callable[[Tensor, int], Left]
) -> tuple[Rows, tuple[Tensor, ...], tuple[tuple[int, Again], ...]]:
    """Reduce the features of items of equal ``kinds`` that follow one another at once.

    Args: reduce, from [items, tokens, H] and the number of the first of them.
    Returns: what is left of each item, [left, H], and its places; ``again`` of ``Encoded``.
    """
    if not isinstance(features, Tensor) and features[0].dim() == 3:
        features = [video.flatten(0, 1) for video in features]
    stacks: list[Tensor] = []
    places: list[Tensor] = []
    again: list[tuple[int, Again]] = []
    start = 0
    for _, same in groupby(kinds):
        stop = start + len(tuple(same))
        alike = features[start:stop]
        stack = alike if isinstance(alike, Tensor) else torch.stack(alike)
        left = reduce(stack, start)
        stacks.append(left.features)
        places += left.places
        again.append((stop - start, left.again))
        start = stop
    rows = stacks[0] if len(stacks) == 1 else [x for left in stacks for x in left]
    return rows, tuple(places), tuple(again)


def merge_item(
    features: Tensor, item: VisualItem, merge: Merge, counts: dict[int, tuple[int, ...]]
) -> Left:
    """Merge several equal items: features[items, tokens, H] -> [items, left, H], and the places.

    Args: counts, gets for each size of groups its tokens before merging and after each pass.
    """
    device, number = features.device, len(features)
    left, places = [], []
    plans: list[list[Plan]] = []
    for block in item.blocks:
        index = _index(block.places, device)
        plans.append([])
        # [items, groups * tokens, H] -> [items * groups, tokens, H]
        merged = features[:, index].unflatten(1, (block.groups, block.tokens)).flatten(0, 1)
        here = torch.arange(item.tokens, device=device)[index].view(block.groups, block.tokens)
        here = here.expand(number, -1, -1).flatten(0, 1)
        passes, seen = group_counts(merge, block.tokens), [block.tokens]
        for left_now, plan in merge_passes(merged, passes, merge.by):
            merged, here = left_now, plan.places(here)
            plans[-1].append(plan)
            seen.append(merged.shape[1])
        counts[block.tokens] = tuple(seen)
        left.append(merged.unflatten(0, (number, -1)).flatten(1, 2))
        places.append(here.unflatten(0, (number, -1)).flatten(1, 2))
    tokens, where = _with_newlines(features, item, left, places)
    return Left(tokens, where, partial(_merged_alike, item=item, plans=plans, places=places))


def _merged_alike(
    x: Tensor, item: VisualItem, plans: Sequence[Sequence[Plan]], places: Sequence[Tensor]
) -> Tensor:
    """Other features x[items, tokens, W] of items, averaged as their tokens were: ``Left.again``.

    Args: plans, of each block, pass by pass; places, of each block, [items, left].
    """
    left = []
    for block, passes in zip(item.blocks, plans, strict=True):
        groups = x[:, _index(block.places, x.device)].unflatten(1, (block.groups, block.tokens))
        merged = groups.flatten(0, 1)
        for plan in passes:
            merged = plan.merge(merged)
        left.append(merged.unflatten(0, (len(x), -1)).flatten(1, 2))
    return _with_newlines(x, item, left, list(places))[0]


def choose_item(
    features: Tensor,
    item: VisualItem,
    ranked: Sequence[Ranked],
    by: str,
    tower: TowerAttention | None = None,
    texts: tuple[Tensor, ...] = (),
) -> tuple[Tensor, Tensor, tuple[Ranked, ...]]:
    """Choose in equal items: features[items, tokens, H] -> [items, left, H], and the places.

    Args:
        ranked: what is ranked of an item: all its blocks together, or each block's frames apart.
        by: a name of SELECTIONS.
        tower, texts: of these items, as in Candidates.
    Returns: also ``ranked`` as it occurred.
    Raises: PatchError where another number stays than the prompt has room for.
    """
    device = features.device
    blocks: list[Sequence[int]] = [block.places for block in item.blocks]
    if len(ranked) < len(blocks):
        blocks = [[place for places in blocks for place in places]]
    left, places, occurred = [], [], []
    for part, where in zip(ranked, blocks, strict=True):
        index = _index(where, device)
        visual = features[:, index]
        here = torch.arange(item.tokens, device=device)[index].expand(len(features), -1)
        if part.chooses:
            found = Candidates(visual, part.sets, part.frames, part.kept, tower, texts)
            kept = SELECTIONS[by](found)
            _require_count(kept, part, by)
            here = here.gather(1, kept.places)
            left.append(kept.features)
        else:  # all stay, or none
            here = here[:, : part.sets * part.kept]
            left.append(visual[:, : here.shape[1]])
        places.append(here)
        tokens, kept_now = visual.shape[1] // part.sets, left[-1].shape[1] // part.sets
        occurred.append(replace(part, tokens=tokens, kept=kept_now))
    return *_with_newlines(features, item, left, places), tuple(occurred)


def _require_count(kept: Kept, part: Ranked, by: str) -> None:
    wanted, got = part.sets * part.kept, (kept.places.shape[1], kept.features.shape[1])
    if set(got) != {wanted}:
        raise PatchError(
            f"select.by {by}",
            expected=f"{wanted} tokens of each image or video, {part.kept} of each of {part.sets} "
            "sets, with their places",
            got=f"{got[1]} tokens and {got[0]} places",
            fix="Correct the selection.",
        )


def _with_newlines(
    features: Tensor, item: VisualItem, left: list[Tensor], places: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """What is left of the blocks of equal items, and their tokens in no block, in order."""
    left, places = list(left), list(places)
    rest = item.unmerged_places
    if rest:
        index = _index(rest, features.device)
        if not lack_newlines(features, item.tokens):
            left.append(features[:, index])
        everywhere = torch.arange(item.tokens, device=features.device)
        places.append(everywhere[index].expand(len(features), -1))
    tokens, where = torch.cat(left, dim=1), torch.cat(places, dim=1)
    if item.in_order:
        order = where.argsort(dim=1)
        where = where.gather(1, order)
        tokens = tokens.gather(1, order.unsqueeze(-1).expand_as(tokens))
    return tokens, where


def _index(places: Sequence[int], device: torch.device) -> slice | Tensor:
    """Places in a row as a slice, whose result is a view."""
    first, last = places[0], places[-1]
    if isinstance(places, range) or list(places) == list(range(first, last + 1)):
        return slice(first, last + 1)
    return torch.tensor(places, device="cpu").to(device, non_blocking=True)
