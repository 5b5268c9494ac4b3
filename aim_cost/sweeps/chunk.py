"""chunk(): some rows of a sweep, a pure function of the grid and of which rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from aim_cost.sweeps.grid import Counts, Grid
from aim_cost.sweeps.queue import Clocks
from aim_cost.sweeps.tables import (
    CountTables,
    DeepStackTimes,
    TimeTables,
    count_tables,
    time_tables,
)
from aim_cost.sweeps.tokens import layer_tokens
from aim_cost.timing.form import Array, Mask
from aim_cost.timing.time_source import TimeSource

_BLOCK_ROWS = 8192  # a dozen arrays of so many numbers stay in the cache of a core
Columns = dict[str, Any]


def chunk(grid: Grid, index: int, *, times: bool = True) -> pd.DataFrame:
    """The rows of one chunk, in SI units, named as in ``Estimate.to_row``.

    Args: index, below ``grid.chunks``; times, False for counts alone, which are faster.
    Raises: SpecError or ProfileError.
    """
    place, places = grid.places(index)
    case = grid.case(place)
    execution = case.execution
    counts = count_tables(grid, case.model, execution.element_bytes, execution.last_layer)
    clocked = time_tables(grid, place) if times else None
    text_tokens = np.array(grid.text_tokens, np.int64)
    blocks = []
    for start in range(0, len(places[0]), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        frames, text, retention, prune = (axis[block] for axis in places)
        columns = _prices(counts, clocked, frames, text_tokens[text], retention, prune)
        blocks.append(columns)
    priced = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
    return pd.DataFrame(_axes(grid, place, places, clocked) | priced)


def _prices(
    counts: CountTables,
    times: TimeTables | None,
    frames: Counts,
    text: Counts,
    retention: Counts,
    prune: Counts,
) -> Columns:
    """Counts and times of some rows; all arguments but the tables are [rows]."""
    visual = counts.visual[frames, retention]
    llm = np.full(len(text), counts.head_flops)
    importance, kv_cache = np.zeros_like(llm), np.zeros_like(llm)
    queue = _Queue(times, visual, text) if times else None
    last = len(counts.ratios) - 1
    tokens = layer_tokens(counts.ratios, visual, text, prune)
    for layer, (n, dropped, scored) in enumerate(tokens):
        llm += counts.layer_flops(n) if layer < last else counts.last_layer_flops(n)
        kv_cache += counts.kv_layer_bytes(n)
        importance += counts.importance_flops(n * scored)
        if queue:
            queue.layer(layer, n, dropped, scored, last=layer == last)
    vision, merge = counts.vision_flops[frames], counts.merge_flops[frames, retention]
    columns: Columns = {
        "prompt_tokens": visual + text,
        "vision.flops": vision,
        "merge.flops": merge,
        "llm.flops": llm,
        "importance.flops": importance,
        "total.flops": vision + merge + llm + importance,
        "kv_cache_bytes": kv_cache,
    }
    if times is None or queue is None:
        return columns
    vision_s, merge_s = times.vision_s[frames], times.merge_s[frames, retention]
    prefill_s = queue.end_s(n)
    return columns | {
        "vision.time_s": vision_s,
        "merge.time_s": merge_s,
        "llm.time_s": prefill_s - queue.importance_s,
        "importance.time_s": queue.importance_s,
        "ttft_s": vision_s + merge_s + prefill_s,
    }


class _Queue:
    """The clocks of many prefills, from the embeddings to the logits."""

    def __init__(self, times: TimeTables, visual: Counts, text: Counts) -> None:
        self.times, self.visual, self.text = times, visual, text
        tokens = visual + text
        self.clocks = times.embedding.after(Clocks.zero(len(tokens)), tokens)
        self.importance_s = np.zeros(len(tokens))

    def layer(self, layer: int, n: Counts, dropped: Mask, scored: Mask, *, last: bool) -> None:
        times = self.times
        self.clocks = times.gather.where(dropped, self.clocks, n)
        self.clocks = (times.last_layer if last else times.layer).after(self.clocks, n)
        if layer < len(times.deepstack):
            self._deepstack(times.deepstack[layer], n)
        ranked = times.importance.where(scored, self.clocks, n)
        self.importance_s += ranked.device_s - self.clocks.device_s
        self.clocks = ranked

    def _deepstack(self, times: DeepStackTimes, n: Counts) -> None:
        left = n - self.text
        self.clocks = times.gather.where(left < self.visual, self.clocks, left)
        self.clocks = times.copy.where(left > 0, self.clocks, n)
        self.clocks = times.add.after(self.clocks, left)

    def end_s(self, n: Counts) -> Array:
        return self.times.head.after(self.clocks, n).device_s


def _axes(grid: Grid, place: int, places: tuple[Counts, ...], times: TimeTables | None) -> Columns:
    """The columns that say which row it is. l1 and l2 are empty where nothing is pruned."""
    case, (frames, text, retention, prune) = grid.case(place), places
    pruned = np.array([p is None for p in grid.prunes])[prune]
    limits = np.array([p or (0, 0) for p in grid.prunes])[prune]

    def name(value: str, names: Sequence[str]) -> Any:
        known = pd.Index(names).unique()
        return pd.Categorical.from_codes(np.full(len(frames), known.get_loc(value)), known)

    axes: Columns = {
        "model": name(case.model.name, [m.name for m in grid.models]),
        "hardware": name(case.device.name, [h.name for h in grid.hardware]),
        "dtype": name(case.execution.dtype, [e.dtype for e in grid.executions]),
        "attention": name(case.execution.attention, [e.attention for e in grid.executions]),
        "last_layer": name(
            case.execution.last_layer.value, [e.last_layer.value for e in grid.executions]
        ),
        "execution": name(case.execution.mode, [e.mode for e in grid.executions]),
        "batch": np.full(len(frames), grid.batch),
        "frames": np.array(grid.frames)[frames],
        "text_tokens": np.array(grid.text_tokens)[text],
        "merge.retention": np.array(grid.retentions, float)[retention],
        "prune.l1": pd.arrays.IntegerArray(limits[:, 0], pruned),
        "prune.l2": pd.arrays.IntegerArray(limits[:, 1], pruned),
    }
    return axes | (
        {"source": name(times.source.value, [source.value for source in TimeSource])}
        if times
        else {}
    )
