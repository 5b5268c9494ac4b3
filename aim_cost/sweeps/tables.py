"""The tables that the rows of a setting look up: counts, FLOPs and times by the axes of a grid."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aim_cost.case import Case
from aim_cost.errors import SpecError
from aim_cost.models import decoder
from aim_cost.models.encoder import feature_ops
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import LastLayer
from aim_cost.ops import reduction
from aim_cost.ops.op import Op, OpGraph
from aim_cost.schedules.prune import Prune
from aim_cost.sweeps import closed_forms as symbolic
from aim_cost.sweeps.grid import Counts, Grid
from aim_cost.sweeps.queue import OpPrices, Segment
from aim_cost.sweeps.symbols import B, F, n, t
from aim_cost.timing.form import Array
from aim_cost.timing.prefill_time import time_model
from aim_cost.timing.time_source import TimeSource

LONGEST_PROMPT = 500_000


@dataclass(frozen=True)
class CountTables:
    """Counts of one model.

    Args:
        visual: tokens entering the LLM, [frames, retentions], newline included.
        longest: tokens of the longest prompt.
        ratios: retention ratio after each layer, [layers, prunes].
        vision_flops: [frames]; merge_flops: [frames, retentions].
        layer_flops, last_layer_flops, importance_flops, kv_layer_bytes: of the tokens entering
            a layer; counts in, counts out, ints or arrays.
        head_flops: a count.
    """

    visual: Counts
    longest: int
    ratios: Array
    vision_flops: Counts
    merge_flops: Counts
    layer_flops: Callable[[Any], Any]
    last_layer_flops: Callable[[Any], Any]
    importance_flops: Callable[[Any], Any]
    kv_layer_bytes: Callable[[Any], Any]
    head_flops: int


@dataclass(frozen=True)
class DeepStackTimes:
    """Times of DeepStack after a layer.

    Args: copy, by the tokens of a prompt; gather, add, by its visual tokens.
    """

    gather: Segment
    copy: Segment
    add: Segment


@dataclass(frozen=True)
class TimeTables:
    """Times of one setting.

    Args:
        vision_s: [frames]; merge_s: [frames, retentions]; seconds.
        embedding, gather, layer, last_layer, importance, head: by the tokens of a prompt.
        deepstack: after each of the first layers, () without any.
        source: where times come from.
    """

    vision_s: Array
    merge_s: Array
    embedding: Segment
    gather: Segment
    layer: Segment
    last_layer: Segment
    importance: Segment
    head: Segment
    deepstack: tuple[DeepStackTimes, ...]
    source: TimeSource


@lru_cache(maxsize=4)
def count_tables(grid: Grid, model: ModelSpec, width: int, last_layer: LastLayer) -> CountTables:
    """The counts of one model of a grid, elements of ``width`` bytes.

    Raises: SpecError where a count may pass 64 bits.
    """
    values = symbolic.text_values(model) | {B: grid.batch, symbolic.w: width}
    make = partial(symbolic.function, values=values)
    layer_flops, importance_flops, kv_layer_bytes = (
        make(piece, (n,))
        for piece in (symbolic.LAYER_FLOPS, symbolic.IMPORTANCE_FLOPS, symbolic.KV_LAYER_BYTES)
    )
    merge_pass = make(symbolic.MERGE_PASS_FLOPS, (F, t))
    merges = [grid.merge_tokens(model, retention) for retention in grid.retentions]
    groups, layers = _groups(grid, model)[:, None], model.text.num_hidden_layers
    newline = grid.visual_input(model, grid.frames[0]).newline_tokens
    visual = groups * np.array([counts[-1] for counts in merges]) + newline
    longest = int(visual.max()) + max(grid.text_tokens)
    vision_flops = _vision_flops(grid, model, width)
    # Python's ints have no limit, so they show where int64 would overflow
    llm_flops = layers * (layer_flops(longest) + importance_flops(longest))
    if 2 * (vision_flops.max() + llm_flops) >= 2**63:
        raise SpecError(
            "sweep",
            expected="less than 2**62 FLOPs a prefill",
            got=f"prompts of {longest} tokens, batch {grid.batch}",
            fix="Use fewer frames or a smaller batch.",
        )
    return CountTables(
        visual=visual,
        longest=longest,
        ratios=np.stack([_ratios(prune, layers) for prune in grid.prunes], axis=1),
        vision_flops=vision_flops.astype(np.int64),
        merge_flops=np.hstack(
            [
                sum((merge_pass(groups, tokens) for tokens, _ in pairwise(m)), 0 * groups)
                for m in merges
            ]
        ),
        layer_flops=layer_flops,
        last_layer_flops=make(symbolic.LAST_LAYER_FLOPS, (n,))
        if last_layer is LastLayer.NEEDED
        else layer_flops,
        importance_flops=importance_flops,
        kv_layer_bytes=kv_layer_bytes,
        head_flops=int(make(symbolic.HEAD_FLOPS, ())()),
    )


def _ratios(prune: tuple[int, int] | None, layers: int) -> Array:
    return np.array(
        Prune(linear=prune).ratio_after_layer(layers) if prune is not None else (1.0,) * layers
    )


@lru_cache(maxsize=4)
def time_tables(grid: Grid, index: int) -> TimeTables:
    """The times of one setting of a grid.

    Raises: ProfileError, as ``time_model`` does; SpecError for prompts above LONGEST_PROMPT.
    """
    case = grid.case(index)
    model, text = case.model, case.model.text
    prices = OpPrices.of(time_model(case.device, case.execution, case.calibration))
    width, batch = case.execution.element_bytes, grid.batch
    attention = case.execution.attention
    most = count_tables(grid, model, width, case.execution.last_layer).longest
    if most > LONGEST_PROMPT:
        raise SpecError(
            "sweep",
            expected=f"prompts of at most {LONGEST_PROMPT} tokens, each length priced beforehand",
            got=f"{most} tokens",
            fix="Use fewer frames.",
        )
    by_count = partial(Segment.by_count, symbol=n, most=most, prices=prices)
    heads, hidden = text.num_attention_heads, text.hidden_size
    vision_s, merge_s = _before_the_llm(grid, case, prices)
    layer_ops = partial(decoder.layer_ops, text, batch, n)
    layer = last_layer = by_count(layer_ops(n, attention, width))
    left = n  # the head sees only the last of them
    if case.execution.last_layer is LastLayer.NEEDED:
        left = 1
        last_layer = by_count(layer_ops(left, attention, width, queries=left))
    return TimeTables(
        vision_s=vision_s,
        merge_s=merge_s,
        embedding=by_count(decoder.embedding_ops(batch, n, hidden, width)),
        gather=by_count(reduction.drop_ops(0, batch, n, hidden, text.head_dim, width)),
        layer=layer,
        last_layer=last_layer,
        importance=by_count(reduction.importance_ops(None, batch, n, heads, text.head_dim, width)),
        head=by_count(decoder.head_ops(text, batch, left, width)),
        deepstack=_deepstack(case, by_count, batch),
        source=prices.source,
    )


def _deepstack(
    case: Case, by_count: Callable[[list[Op]], Segment], batch: int
) -> tuple[DeepStackTimes, ...]:
    """Of each layer that adds features; the last token alone has none."""
    hidden, width = case.model.text.hidden_size, case.execution.element_bytes
    alone = case.execution.last_layer is LastLayer.NEEDED
    layers = case.model.text.num_hidden_layers - alone
    levels = min(case.model.vision.deepstack_levels, layers)
    if not levels:
        return ()
    times = DeepStackTimes(
        by_count(decoder.deepstack_gather_ops(None, batch, n, hidden, width)),
        by_count(decoder.deepstack_copy_ops(None, batch, n, hidden, width)),
        by_count(decoder.deepstack_add_ops(None, batch, n, hidden, width)),
    )
    return (times,) * levels


def _before_the_llm(grid: Grid, case: Case, prices: OpPrices) -> tuple[Array, Array]:
    """Seconds of the vision tower, [frames], and of merging, [frames, retentions]."""
    model, width = case.model, case.execution.element_bytes
    groups, hidden = _groups(grid, model), model.text.hidden_size
    tower = Segment.of(_vision_ops(grid, model, width), F, groups, prices)
    vision_s = np.maximum(tower.busy_s, tower.wake_s)

    @cache
    def end_s(tokens: tuple[int, ...]) -> Array:
        merge = reduction.merge_ops(
            grid.batch * F, tokens, hidden, width, levels=model.vision.deepstack_levels
        )
        segment = Segment.of(merge, F, groups, prices)
        return np.maximum(vision_s + segment.busy_s, tower.host_s + segment.wake_s)

    ends_s = [end_s(grid.merge_tokens(model, retention)) for retention in grid.retentions]
    return vision_s, np.stack(ends_s, axis=1) - vision_s[:, None]


def _groups(grid: Grid, model: ModelSpec) -> Counts:
    """Groups of frames that are merged one by one, [frames]."""
    return np.array([grid.visual_input(model, frames).groups for frames in grid.frames], np.int64)


def _vision_flops(grid: Grid, model: ModelSpec, width: int) -> NDArray[np.object_]:
    """FLOPs from pixels to visual tokens, [frames], in Python's ints."""
    groups = _groups(grid, model).astype(object)
    flops = symbolic.function(OpGraph(tuple(_vision_ops(grid, model, width))).flops, (F,), {})
    found: NDArray[np.object_] = flops(groups) + 0 * groups
    return found


def _vision_ops(grid: Grid, model: ModelSpec, width: int) -> list[Op]:
    """Ops from pixels to visual tokens."""
    return feature_ops(model, [(model.vision, grid.batch * F)], width, video=True)
