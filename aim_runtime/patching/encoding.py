"""What happens to visual features before they enter the LLM: they are merged, item by item."""

import inspect
import threading
from collections.abc import Callable, Sequence
from copy import copy
from functools import wraps
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from aim_cost.errors import AimError
from aim_cost.schedules.merge import Merge
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import uncompiled
from aim_runtime.models.visual import VisualItem, group_counts
from aim_runtime.prompts.encoded import Encoded, Items, features_of_another_run
from aim_runtime.recorder import Recorder
from aim_runtime.reduction.merge import merge_passes
from aim_runtime.seams import lack_newlines, with_video_pixels

Features = Tensor | list[Tensor]


class _Last(threading.local):
    """The images or videos that this thread has encoded last, outside a forward."""

    items: Items | None = None


class Encoding:
    """Merges the features of images, or of videos, on their way into a prompt.

    What a caller asks of an encoder, outside a forward, stays as it is without a patch; so does
    what ``generate`` of newer transformers encodes ahead. The forward merges it.
    Args: strict, whether pixels that cannot be understood are an error.
    """

    def __init__(
        self,
        merge: Merge | None,
        recorder: Recorder,
        adapter: Adapter,
        modality: str,
        *,
        strict: bool,
    ) -> None:
        self._merge, self._recorder, self._strict = merge, recorder, strict
        self._adapter, self._modality = adapter, modality
        self._last = _Last()

    def around(
        self, encode: Callable[..., Any], entering: Callable[[], dict[str, Encoded] | None]
    ) -> Callable[..., Any]:
        """``encode``, then merging, if a prompt is entering: its ``encoded`` by modality."""
        names = tuple(inspect.signature(encode).parameters)
        seen = uncompiled(self._seen)  # the tower may be compiled

        @wraps(encode)
        def encode_and_merge(*args: Any, **kwargs: Any) -> Any:
            output = encode(*args, **kwargs)
            given = dict(zip(names, args, strict=False)) | kwargs
            return seen(output, given, entering())

        return encode_and_merge

    def _seen(self, output: Any, given: dict[str, Any], encoded: dict[str, Encoded] | None) -> Any:
        if self._modality == "video":
            given = with_video_pixels(given)
        try:
            items = self._adapter.items_of_pixels(given, self._modality)
        except AimError:
            if self._strict:
                raise
            return output
        if encoded is None:
            self._last.items = items
            if isinstance(output, ModelOutput):
                output._aim_items = items
            return output
        output.pooler_output, encoded[self._modality] = self._merged(output.pooler_output, items)
        return output

    def items_of(self, ready: Any) -> Items:
        """The items of an output that was encoded outside a forward.

        Raises: PatchError where nobody knows them.
        """
        items: Items | None = getattr(ready, "_aim_items", self._last.items)
        features = ready.pooler_output
        if items is None or len(features) % len(items):
            raise features_of_another_run(f"features of {len(features)} {self._modality}s")
        return items

    def merge_ready(self, ready: Any, items: Items, numbers: Sequence[int]) -> tuple[Any, Encoded]:
        """A copy of an output that was encoded outside a forward, with merged features.

        Args: numbers, of each of its features the item; ``generate`` repeats those of a prompt.
        Raises: PatchError for features of other items.
        """
        features = ready.pooler_output
        tokens = [feature.shape[:-1].numel() for feature in features]
        if tokens != [items[number].tokens for number in numbers]:
            raise features_of_another_run(f"features of {tokens} tokens")
        if self._merge is None:
            return ready, Encoded(items, whole_counts(items), ())
        first = [numbers.index(number) for number in range(len(items))]
        once = features[first] if isinstance(features, Tensor) else [features[i] for i in first]
        merged, encoded = self._merged(once, items)
        merged = [merged[number] for number in numbers]
        ready = copy(ready)
        ready.pooler_output = torch.stack(merged) if isinstance(features, Tensor) else merged
        return ready, encoded

    def _merged(self, features: Features, items: Items) -> tuple[Features, Encoded]:
        """Features [tokens, hidden] of each item, and what is left of them, alike in form."""
        if self._merge is None:
            return features, Encoded(items, whole_counts(items), ())
        with self._recorder.span("merge"):
            return merge_features(features, items, self._merge)


def whole_counts(items: Items) -> dict[int, tuple[int, ...]]:
    """``counts`` of ``Encoded`` where nothing is merged."""
    return {block.tokens: (block.tokens,) for item in items for block in item.blocks}


def merge_features(features: Features, items: Items, merge: Merge) -> tuple[Features, Encoded]:
    """Merge the features of ``items``; returns what is left, alike in form.

    Shapes: features[items, tokens, H], or a list of [tokens, H] or of [frames, tokens, H].
    """
    together, counts = isinstance(features, Tensor), whole_counts(items)
    by_frame = not together and features[0].dim() == 3
    if by_frame:
        features = [video.flatten(0, 1) for video in features]
    merged: list[Tensor] = []
    places: list[Tensor] = []
    start = 0
    for item, same in groupby(items):
        stop = start + len(tuple(same))
        alike = features[start:stop]
        stack = alike if isinstance(alike, Tensor) else torch.stack(alike)
        left, where = merge_item(stack, item, merge, counts)
        merged.append(left)
        places += where
        start = stop
    encoded = Encoded(items, counts, tuple(places))
    if together:
        return merged[0] if len(merged) == 1 else torch.cat(merged), encoded
    rows = [row for stack in merged for row in stack]
    return [row.unsqueeze(0) for row in rows] if by_frame else rows, encoded


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
