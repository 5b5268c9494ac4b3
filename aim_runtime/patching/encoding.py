"""What happens to visual features before they enter the LLM: they are merged, item by item."""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from aim_cost.schedules.merge import Merge
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import uncompiled
from aim_runtime.models.visual import VisualItem, group_counts
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.recorder import Recorder
from aim_runtime.reduction.merge import merge_passes
from aim_runtime.seams import lack_newlines, with_video_pixels

Features = Tensor | list[Tensor]


class Encoding:
    """Merges features behind a model's encoder of one modality; ``last`` tells what came out.

    Args: keeps_places, whether ``last`` has places and features.
    """

    def __init__(
        self,
        merge: Merge | None,
        recorder: Recorder,
        adapter: Adapter,
        modality: str,
        *,
        keeps_places: bool,
    ) -> None:
        self.last: Encoded | None = None
        self._merge, self._recorder, self._keeps_places = merge, recorder, keeps_places
        self._adapter, self._modality = adapter, modality

    def behind(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        """``encode``, then merging."""
        names = tuple(inspect.signature(encode).parameters)
        merged = uncompiled(self._merged)  # the tower may be compiled

        @wraps(encode)
        def encode_and_merge(*args: Any, **kwargs: Any) -> Any:
            output = encode(*args, **kwargs)
            given = dict(zip(names, args, strict=False)) | kwargs
            output.pooler_output = merged(output.pooler_output, given)
            return output

        return encode_and_merge

    def _merged(self, features: Features, given: dict[str, Any]) -> Features:
        """Features [tokens, hidden] of each item, and what is left of them, alike in form."""
        if self._modality == "video":
            given = with_video_pixels(given)
        items = self._adapter.items_of_pixels(given, self._modality)
        together = isinstance(features, Tensor)
        counts: dict[int, tuple[int, ...]] = {
            block.tokens: (block.tokens,) for item in items for block in item.blocks
        }
        if self._merge is None:
            self.last = Encoded(items, counts, (), ())
            return features
        by_frame = not together and features[0].dim() == 3
        if by_frame:
            features = [video.flatten(0, 1) for video in features]
        merged: list[Tensor] = []
        places: list[Tensor] = []
        start = 0
        with self._recorder.span("merge"):
            for item, same in groupby(items):
                stop = start + len(tuple(same))
                alike = features[start:stop]
                stack = alike if isinstance(alike, Tensor) else torch.stack(alike)
                left, where = merge_item(stack, item, self._merge, counts)
                merged.append(left)
                places += where
                start = stop
            rows = [row for stack in merged for row in stack]
            kept = (tuple(places), tuple(rows)) if self._keeps_places else ((), ())
            self.last = Encoded(items, counts, *kept)
            if not together:
                return [row.unsqueeze(0) for row in rows] if by_frame else rows
            return merged[0] if len(merged) == 1 else torch.cat(merged)


def merge_item(
    features: Tensor, item: VisualItem, merge: Merge, counts: dict[int, tuple[int, ...]]
) -> tuple[Tensor, Tensor]:
    """Merge several equal items: features[items, tokens, H] -> [items, left, H], and the places.

    Args: counts, gets for each size of groups its tokens before merging and after each pass.
    Returns: what is left, and int64 [items, left], where in its item each of them stood.
    """
    device, number = features.device, len(features)
    left, places = [], []
    for block in item.blocks:
        index = _index(block.places, device)
        # [items, groups * tokens, H] -> [items * groups, tokens, H]
        merged = features[:, index].unflatten(1, (block.groups, block.tokens)).flatten(0, 1)
        here = torch.arange(item.tokens, device=device)[index].view(block.groups, block.tokens)
        here = here.expand(number, -1, -1).flatten(0, 1)
        passes, seen = group_counts(merge, block.tokens), [block.tokens]
        for left_now, plan in merge_passes(merged, passes, merge.by):
            merged, here = left_now, plan.places(here)
            seen.append(merged.shape[1])
        counts[block.tokens] = tuple(seen)
        left.append(merged.unflatten(0, (number, -1)).flatten(1, 2))
        places.append(here.unflatten(0, (number, -1)).flatten(1, 2))
    rest = item.unmerged_places
    if rest:
        index = _index(rest, device)
        if not lack_newlines(features, item.tokens):
            left.append(features[:, index])
        places.append(torch.arange(item.tokens, device=device)[index].expand(number, -1))
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
