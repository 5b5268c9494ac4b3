"""A whole prefill as a CUDA graph: vision, merging, the decoder with its drops, and the head.

A schedule fixes every shape beforehand, so the device never has to ask the host. The stock forward
asks all the same (placeholder counts, padding); ``StaticPrefill`` runs the same modules in the same
order without it, and ``GraphedPrefill`` captures that once and replays it.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin

from aim_cost.models.workload import LastLayer
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import PatchError
from aim_runtime.models import require_onevision
from aim_runtime.models.adapters.llava_onevision import LlavaOnevisionAdapter
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.load import Loaded
from aim_runtime.models.sampling import FrameSampling
from aim_runtime.patching.capturable import EAGER_WAY, capturable, refusal
from aim_runtime.patching.encoding import tower_seen
from aim_runtime.patching.items import Rows, like, merge_features, select_features
from aim_runtime.patching.patch import patched
from aim_runtime.patching.prefill import Prefill
from aim_runtime.prompts.cached import Cached
from aim_runtime.prompts.layout import Layout, Shortened
from aim_runtime.prompts.prompt_layer import hold_prompt
from aim_runtime.recorder import NULL_RECORDER
from aim_runtime.seams import lack_newlines, with_cache
from aim_runtime.trace import RunTrace


@dataclass(frozen=True)
class PrefillOutput:
    """What a prefill leaves: logits[B, 1, vocabulary] of the last token, and the KV cache.

    After ``GraphedPrefill`` both lie in the graph's memory, and the next replay overwrites them.
    Decode on the cache token by token, patched or not; ``generate`` goes on from it inside
    ``patched`` alone, where it is known how much of the prompt is cached.
    """

    logits: Tensor
    cache: DynamicCache


class StaticPrefill:
    """Prefills of one shape under one schedule, without any question to the device.

    Args:
        inputs: as for ``model(**inputs)``: videos and unpadded prompts. They fix the shapes and
            where the videos stand; the ids may be on the host, and are quicker checked there.
        last_layer: as for ``patch``.
    ``trace`` is about the last run. Equal bit for bit to the model under ``patched`` with the same
    schedule and last layer.
    Raises: PatchError for what needs the host while it runs, ScheduleError.
    """

    def __init__(
        self,
        loaded: Loaded,
        schedule: Schedule,
        inputs: Inputs,
        *,
        last_layer: LastLayer = LastLayer.ALL,
    ) -> None:
        require_onevision(loaded.model, "static prefill")
        _require_sdpa(loaded)
        if schedule.select is not None and VISUAL_SCORES[schedule.select.by].reads_text:
            raise refusal("schedule.select.by", "a score that reads no text", schedule.select.by)
        if schedule.merge is not None and schedule.merge.positions == "kept":
            raise refusal("schedule.merge.positions", "recounted", "kept, looked up on the host")
        self.trace = self._patched = RunTrace()
        self._loaded, self._schedule = loaded, schedule
        self._last_layer = LastLayer.read(last_layer, PatchError)
        frame = loaded.spec.frame_tokens
        counts = schedule.merge.token_counts(frame) if schedule.merge else (frame,)
        self._merge_tokens = {frame: counts}
        adapter = LlavaOnevisionAdapter(loaded.model)
        self._layout = Layout(adapter, schedule)
        self._sampling = FrameSampling(adapter, schedule.sample)
        short = self._shortened(inputs)
        self._prompt, ids = short.prompt, short.inputs["input_ids"]
        plan = schedule.resolve_visual(
            self._prompt.visual[0],
            text_tokens=self._prompt.text_tokens[0],
            layers=loaded.spec.text.num_hidden_layers,
        )
        if self._last_layer is LastLayer.NEEDED:
            plan = plan.last_needed()
        self._plans = [plan] * len(ids)
        device, mask = loaded.device, self._prompt.visual_mask
        self._ids = torch.empty_like(ids, device=device)
        pixels = self._pixels_of(inputs)
        self._pixels = torch.empty_like(pixels, device=device, dtype=getattr(torch, loaded.dtype))
        self._visual = mask[..., None].to(device)
        # which visual token stands where; anything in range at text
        self._place = (mask.cumsum(dim=1) - 1).clamp_(min=0)[..., None].to(device)
        self._fill(short.inputs["input_ids"], pixels)

    @property
    def device(self) -> torch.device:
        return self._loaded.device

    def load(self, inputs: Inputs) -> None:
        """Take other pixels and other text of the same shape.

        Raises: PatchError for another shape, or for videos that stand elsewhere in the prompts.
        """
        short = self._shortened(inputs)
        ids, pixels = short.inputs["input_ids"], self._pixels_of(inputs)
        if pixels.shape != self._pixels.shape:
            raise _another("pixel_values_videos", list(self._pixels.shape), list(pixels.shape))
        if ids.shape != self._ids.shape:
            raise _another("input_ids", list(self._ids.shape), list(ids.shape))
        if not torch.equal(short.prompt.visual_mask, self._prompt.visual_mask):
            raise _another("input_ids", "the videos at their places", "videos elsewhere")
        self._fill(ids, pixels)

    @torch.no_grad()
    def run(self) -> PrefillOutput:
        """Run once, kernel by kernel, on any device."""
        with self.attached():
            return self.prepare()()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The patched model. Raises: PatchError, ScheduleError, as ``patch``."""
        model, schedule = self._loaded.model, self._schedule
        with patched(model, schedule, last_layer=self._last_layer) as self._patched:
            yield

    def prepare(self) -> Callable[[], PrefillOutput]:
        """Send what the host knows to the device; the result runs the rest, inside ``attached``."""
        loaded = self._loaded
        prefill = Prefill(
            self._plans,
            self._prompt,
            self._merge_tokens,
            [tuple(part for item in row for part in item.ranked) for row in self._prompt.placed],
            decoder=loaded.model.model.language_model,
            device=loaded.device,
            recorder=NULL_RECORDER,
        )
        cache = DynamicCache(config=loaded.model.model.language_model.config)
        nothing = torch.empty(0, dtype=self._pixels.dtype, device=loaded.device)
        for layer in cache.layers:
            if isinstance(layer, CacheLayerMixin):  # as all layers of these decoders
                layer.lazy_initialization(nothing, nothing)
        return partial(self._forward, prefill, cache)

    def _forward(self, prefill: Prefill, cache: DynamicCache) -> PrefillOutput:
        decoder = self._loaded.model.model.language_model
        text = decoder.embed_tokens(self._ids)
        features = self._features().view(len(text), -1, text.shape[-1])
        features = features.gather(1, self._place.expand(-1, -1, text.shape[-1]))
        x = torch.where(self._visual, features, text)
        positions = torch.arange(x.shape[1], device=x.device)[None]
        angles = decoder.rotary_emb(x, positions)
        for number, layer in enumerate(decoder.layers):
            x, arguments = prefill.enter_layer(
                number,
                x,
                {
                    "attention_mask": None,  # causal: nothing is padded
                    "position_ids": positions,
                    "position_embeddings": angles,
                    "use_cache": True,
                    **with_cache(cache),
                },
            )
            x = layer(x, **arguments)
            prefill.observe_mlp(x)
        self.trace.tower = self._patched.tower
        logits = self._loaded.model.lm_head(decoder.norm(x)[:, -1:])
        lengths = tuple(cache.get_seq_length(i) for i in range(len(decoder.layers)))
        prefill.finish(self.trace, lengths)
        last = torch.full((1, 1), self._prompt.tokens - 1, device="cpu")
        cached = Cached(
            self._prompt,
            lengths,
            padding=[],
            keeps_positions=False,
            needs_patch=False,
            last_position=last,
            highest_position=last,
        )
        hold_prompt(cache, cached)
        return PrefillOutput(logits, cache)

    def _features(self) -> Tensor:
        """Visual tokens of all videos, newlines included: [videos, tokens, hidden]."""
        core = self._loaded.model.model
        output = core.get_video_features(self._pixels)
        features: Tensor = output.pooler_output
        items = tuple(placed.item for row in self._prompt.placed for placed in row)
        merge, select = self._schedule.merge, self._schedule.select
        rows: Rows = features
        if merge is not None:
            rows, _ = merge_features(features, items, merge)
        elif select is not None:
            ranked, tower = self._prompt.ranked("video"), tower_seen(output)
            rows, _ = select_features(features, items, ranked, select.by, tower, ())
        reduced = like(features, rows, items)
        assert isinstance(reduced, Tensor)  # as the features were
        features = reduced
        if not lack_newlines(features, self._prompt.placed[0][0].tokens):
            return features
        newline = core.image_newline.expand(len(features), 1, -1)
        return torch.cat([features, newline], dim=1)

    def _shortened(self, inputs: Inputs) -> Shortened:
        if inputs.get("pixel_values_videos") is None or inputs.get("pixel_values") is not None:
            raise refusal("inputs", "pixel_values_videos, and no images", "other inputs")
        short = self._layout.prepare(inputs)
        if not short.prompt.is_even:
            raise refusal("inputs", "as many videos in each prompt", "different numbers")
        if short.prompt.padded(short.inputs.get("attention_mask")).padding is not None:
            raise refusal("attention_mask", "prompts of one length", "padding")
        return short

    def _pixels_of(self, inputs: Inputs) -> Tensor:
        """The pixels of the frames that are encoded: [videos, frames, channels, side, side]."""
        pixels: Tensor = self._sampling.pixels(inputs)["pixel_values_videos"]
        return pixels

    def _fill(self, ids: Tensor, pixels: Tensor) -> None:
        self._ids.copy_(ids)
        self._pixels.copy_(pixels)


class GraphedPrefill:
    """A prefill captured once and replayed for other pixels and text of the same shape.

    Args: as for ``StaticPrefill``; warmup, runs before the capture, on a stream of their own.
    The first of them is watched, and refused where it would ask the host. Weights are read where
    they lay at the capture. Memory: that of one prefill, held as long as the object.
    Raises: PatchError on other devices than CUDA, and for what cannot be captured.
    """

    def __init__(
        self,
        loaded: Loaded,
        schedule: Schedule,
        inputs: Inputs,
        *,
        warmup: int = 3,
        last_layer: LastLayer = LastLayer.ALL,
    ) -> None:
        if not _is_cuda(loaded.device):
            raise PatchError(
                "device",
                expected="cuda: graphs are captured there alone",
                got=loaded.device.type,
                fix=EAGER_WAY,
            )
        self._static = StaticPrefill(loaded, schedule, inputs, last_layer=last_layer)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(loaded.device), self._static.attached():
            self._warm_up(warmup)
            # kept: the graph reads what this has sent to the device
            self._work = self._static.prepare()
            self._output = self._capture()

    @property
    def trace(self) -> RunTrace:
        """About the last replay; its tensors lie in the graph's memory."""
        return self._static.trace

    def __call__(self, inputs: Inputs) -> PrefillOutput:
        """Run for ``inputs``. Raises: PatchError, as ``StaticPrefill.load``."""
        self._static.load(inputs)
        return self.replay()

    def replay(self) -> PrefillOutput:
        """Run for the inputs of the last call, without a check: one launch.

        The cache is a new one each time, so that decoding on it leaves the graph's alone.
        """
        self._graph.replay()
        cache = copy.copy(self._output.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        return PrefillOutput(self._output.logits, cache)

    def _warm_up(self, warmup: int) -> None:
        device = self._static.device
        stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for turn in range(max(1, warmup)):
                work = self._static.prepare()
                if turn == 0:
                    with capturable():
                        work()
                else:
                    work()
        current.wait_stream(stream)

    def _capture(self) -> PrefillOutput:
        try:
            with torch.cuda.graph(self._graph):
                return self._work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            got = " ".join(str(error).split())[:200]
            raise refusal("CUDA graph", "a prefill that can be captured", got) from error


def _is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def _require_sdpa(loaded: Loaded) -> None:
    core = loaded.model.model
    for name, part in (("decoder", core.language_model), ("vision tower", core.vision_tower)):
        found = part.config._attn_implementation
        if found != "sdpa":
            raise PatchError(
                f"attention implementation of the {name}",
                expected="sdpa, which needs no mask",
                got=found,
                fix="Call model.set_attn_implementation('sdpa') first.",
            )


def _another(where: str, expected: object, got: object) -> PatchError:
    return PatchError(
        where,
        expected=f"{expected}, as captured",
        got=got,
        fix="Make another one for these inputs.",
    )
