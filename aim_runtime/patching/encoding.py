"""What happens to visual features before they enter the LLM: merging or selecting, item by item."""

import inspect
import threading
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import Tensor
from transformers.utils.generic import ModelOutput

from aim_cost.errors import AimError
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.schedule import Schedule
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import uncompiled
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.sampling import FrameSampling
from aim_runtime.patching.current import Current
from aim_runtime.patching.deepstack import reduce_levels, reduce_ready_levels
from aim_runtime.patching.items import (
    Features,
    Rows,
    like,
    merge_features,
    select_features,
    whole_counts,
)
from aim_runtime.patching.sampled import gather, spread
from aim_runtime.patching.tower_reading import TowerReading
from aim_runtime.prompts.encoded import Encoded, Items, features_of_another_run
from aim_runtime.prompts.entering import Entering
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.recorder import Recorder
from aim_runtime.seams import under_names_of, with_video_pixels
from aim_runtime.selection.tower import TowerAttention


@dataclass(frozen=True)
class _Seen:
    """What has been encoded outside a forward, and the attention that a score reads of it."""

    items: Items
    tower: TowerAttention | None


class _Last(threading.local):
    """The images or videos that this thread has encoded last, outside a forward."""

    seen: _Seen | None = None


@dataclass(frozen=True)
class Encodes:
    """What an encoder encodes for: a prompt that enters, or None outside a forward."""

    prompt: Entering | None


class Encoding:
    """Merges or selects the features of images, or of videos, on their way into a prompt.

    Frames of a video are sampled first. What a caller asks of an encoder, outside a forward, stays
    as it is without a patch; so does what ``generate`` of newer transformers encodes ahead, of the
    frames that are sampled. The forward reduces it.
    Args:
        tower: reads the attention of the vision tower, for scores that need it.
        busy: what an encoder that runs encodes for; one that it calls for the same, as Qwen3-VL's
            of videos calls that of images, hands on what it gives.
        ahead: whether what is encoded outside a forward is for a prompt that follows.
        strict: whether pixels that cannot be understood are an error.
    """

    def __init__(
        self,
        schedule: Schedule,
        recorder: Recorder,
        adapter: Adapter,
        modality: str,
        tower: TowerReading | None,
        busy: Current[Encodes],
        *,
        ahead: Current[bool],
        strict: bool,
    ) -> None:
        self._samples = modality == "video" and schedule.sample is not None
        self._sampling = FrameSampling(adapter, schedule.sample)
        self._whole = FrameSampling(adapter, None)
        self._ahead = ahead
        self._merge, self._select = schedule.merge, schedule.select
        self._reduces = self._merge is not None or self._select is not None
        self._recorder, self._strict = recorder, strict
        self._adapter, self._modality, self._tower = adapter, modality, tower
        self._busy, self._last = busy, _Last()

    def around(
        self, encode: Callable[..., Any], entering: Callable[[], Entering | None]
    ) -> Callable[..., Any]:
        """``encode``, then the reduction, if a prompt is entering."""
        names = tuple(inspect.signature(encode).parameters)
        seen = uncompiled(self._seen)  # the tower may be compiled

        @wraps(encode)
        def encode_and_reduce(*args: Any, **kwargs: Any) -> Any:
            given, prompt = dict(zip(names, args, strict=False)) | kwargs, entering()
            if self._busy.value is not None and self._busy.value.prompt is prompt:
                return encode(*args, **kwargs)
            if prompt is not None and self._modality in prompt.made:
                return prompt.made.pop(self._modality)
            sampled = self._samples and (prompt is not None or self._ahead.value)
            with self._busy.during(Encodes(prompt)):
                output = encode(**self._sampled(given)) if sampled else encode(*args, **kwargs)
            return seen(output, given, prompt, self._sampling if sampled else self._whole)

        return encode_and_reduce

    def _sampled(self, given: Inputs) -> Inputs:
        """The arguments of an encoder with the pixels of the sampled frames alone."""
        return under_names_of(given, self._sampling.pixels(with_video_pixels(given)))

    def _seen(
        self, output: Any, given: Inputs, entering: Entering | None, sampling: FrameSampling
    ) -> Any:
        """Reduce the output of an encoder called with ``given``, if a prompt is entering.

        Args: sampling, of the frames that were encoded.
        """
        tower = None if self._tower is None else self._tower.take(self._modality)
        if self._modality == "video":
            given = with_video_pixels(given)
        try:
            items = sampling.items_of_pixels(given, self._modality)
            if tower is not None:
                names = ("vision_feature_layer", "vision_feature_select_strategy")
                self._adapter.require_as_configured(given, *names)
        except AimError:
            if self._strict:
                raise
            return output
        if entering is None:
            output.pooler_output = spread(output.pooler_output, items)
            self._last.seen = _Seen(items, tower)
            if isinstance(output, ModelOutput):  # which carries the attention while it lives
                output._aim_seen, self._last.seen = self._last.seen, _Seen(items, None)
            return output
        if not self._reduces:
            entering.encoded[self._modality] = Encoded(items, whole_counts(items))
            return output
        features = output.pooler_output
        reduced = self._reduced(features, items, tower, entering.prompt)
        rows, encoded = reduced
        entering.encoded[self._modality] = encoded
        output.pooler_output = like(features, rows, items)
        reduce_levels(output, items, encoded)
        return output

    def items_of(self, ready: Any) -> Items:
        """The items of an output that was encoded outside a forward.

        Raises: PatchError where nobody knows them.
        """
        return self._seen_in(ready).items

    def _seen_in(self, ready: Any) -> _Seen:
        seen: _Seen | None = getattr(ready, "_aim_seen", self._last.seen)
        features = ready.pooler_output
        if seen is None or len(features) % len(seen.items):
            raise features_of_another_run(f"features of {len(features)} {self._modality}s")
        if self._modality == "video" and not all(map(self._sampling.agrees, seen.items)):
            raise features_of_another_run("features of other frames than the schedule samples")
        return seen

    def reduce_ready(self, ready: Any, items: Items, prompt: Prompt) -> tuple[Any, Encoded]:
        """A copy of an output that was encoded outside a forward, with reduced features.

        ``generate`` repeats the features of a prompt.
        Raises: PatchError for features of other items.
        """
        features, numbers = ready.pooler_output, prompt.numbers(self._modality)
        tokens = [feature.shape[:-1].numel() for feature in features]
        if tokens != [items[number].run for number in numbers]:
            raise features_of_another_run(f"features of {tokens} tokens")
        features = gather(features, tuple(items[number] for number in numbers))
        if not self._reduces:
            if features is not ready.pooler_output:
                ready = copy(ready)
                ready.pooler_output = features
            return ready, Encoded(items, whole_counts(items))
        first = [numbers.index(number) for number in range(len(items))]
        once = features[first] if isinstance(features, Tensor) else [features[i] for i in first]
        rows, encoded = self._reduced(once, items, self._seen_in(ready).tower, prompt)
        ready = copy(ready)
        ready.pooler_output = like(features, [rows[number] for number in numbers], items)
        reduce_ready_levels(ready, items, encoded, numbers)
        return ready, encoded

    def _reduced(
        self, features: Features, items: Items, tower: TowerAttention | None, prompt: Prompt
    ) -> tuple[Rows, Encoded]:
        """What is left of the features of each item, [left, hidden], and how it came about."""
        if self._merge is not None:
            with self._recorder.span("merge"):
                return merge_features(features, items, self._merge)
        assert self._select is not None
        with self._recorder.span("merge"):
            texts: Sequence[Tensor] = ()
            if VISUAL_SCORES[self._select.by].reads_text:
                embed = self._adapter.decoder.embed_tokens
                texts = [embed(ids) for ids in prompt.texts(self._modality)]
            ranked = prompt.ranked(self._modality)
            return select_features(features, items, ranked, self._select.by, tower, texts)


def tower_seen(output: Any) -> TowerAttention | None:
    """The attention of the tower behind an output that was encoded outside a forward."""
    seen: _Seen | None = getattr(output, "_aim_seen", None)
    return None if seen is None else seen.tower
