"""The table of an estimate: what ``aim-cost predict`` prints and a notebook shows."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from aim_cost.models.images import ImageGrid
from aim_cost.ops.op import GROUPS, OpGraph
from aim_cost.render import table
from aim_cost.timing.prefill_time import PhaseTime
from aim_cost.units import giga, milli, show, show_time, tera

if TYPE_CHECKING:  # an estimate shows itself with this module
    from aim_cost.case import Estimate


def estimate_table(result: "Estimate") -> RenderableType:
    """The phases of ``result``, and whether its schedule pays against no reduction."""
    rows = []
    for name in GROUPS:
        phase = result.phase(name)
        if phase.flops == 0 and phase.time_s == 0:
            continue
        share = f"{100 * phase.time_s / result.ttft_s:.0f} %"
        band = _band(phase.time_low_s, phase.time_high_s)
        counts = _counts(result, result.graph.phase(name))
        rows.append((name, *counts, _milli(phase.time_s), band, share, phase.bound))
    ttft, counts = result.ttft, _counts(result, result.graph)
    band = _band(ttft.low_s, ttft.high_s)
    rows.append(("TTFT", *counts, _milli(ttft.time_s), band, "", ttft.bound))
    workload, execution = result.workload, result.execution
    title = (
        f"{result.model.name} on {result.device.name}, {execution.dtype}\n"
        f"{workload.label()}{_size(result)} + {workload.text_tokens} text tokens, "
        f"batch {workload.batch}, execution {result.mode}{_last_layer(result)}; "
        f"schedule: {result.schedule.label()}"
    )
    convention = result.convention
    left_out = "Not counted" if convention.counts_macs else "FLOPs not counted"
    note = (
        f"Convention {convention.name}: {convention.summary}. {left_out}: "
        f"{', '.join(convention.not_counted)}. {_time_note(result)}{_unseen(ttft)}"
    )
    counts = ("TMACs", "TFLOPs") if convention.counts_macs else ("TFLOPs", "GB moved")
    columns = ("phase", *counts, "ms", "90 % band", "share", "bound")
    return Group(
        table(title, columns, rows, note),
        "",
        *_images(result),
        *_tokens(result),
        _memory(result),
        *_verdict(result),
    )


def _size(result: "Estimate") -> str:
    """The resolution, where it is the workload's choice."""
    vision = result.workload.sized(result.model).vision
    if not vision.any_size or result.workload.images is not None:
        return ""
    height, width = vision.frame_size
    return f" ({height} x {width})"


def _last_layer(result: "Estimate") -> str:
    """What the last layer computes, where that is not what transformers does."""
    chosen = result.execution.last_layer
    return "" if chosen == "all" else f", last layer as {chosen}"


def _time_note(result: "Estimate") -> str:
    """Who says the times, and what they are not."""
    if result.convention.counts_macs:
        return (
            "1 MAC = 2 FLOPs. The convention has no times: these are its FLOPs at the device's "
            "peak, a lower bound."
        )
    return result.ttft.source.sentence


def _counts(result: "Estimate", graph: OpGraph) -> tuple[str, str]:
    """Work of ``graph``: FLOPs and traffic; MACs and FLOPs where the convention counts MACs."""
    if result.convention.counts_macs:
        return _tera(graph.flops / 2), _tera(graph.flops)
    return _tera(graph.flops), _giga(graph.read_bytes + graph.write_bytes)


def _unseen(ttft: PhaseTime) -> str:
    """How much of the time is of sizes outside the calibration's tables."""
    if ttft.extrapolated < 0.005:
        return ""
    return f" Extrapolated: {100 * ttft.extrapolated:.0f} % of it is of sizes never timed."


def _band(low_s: float, high_s: float | None) -> str:
    """The band in milliseconds; an open one where the time is a lower bound."""
    return f"{_milli(low_s)} - {_milli(high_s)}" if high_s is not None else f"over {_milli(low_s)}"


def _milli(seconds: float) -> str:
    return f"{milli(seconds):.1f}"


def _tera(count: float) -> str:
    return f"{tera(count):.3f}"


def _giga(count: int) -> str:
    return f"{giga(count):.2f}"


def _images(result: "Estimate") -> list[str]:
    """A line for each image size: what the tower gets and how the tokens come about."""
    grids = Counter(result.workload.image_grids(result.model))
    return [_image(grid, times) for grid, times in grids.items()]


def _image(grid: ImageGrid, times: int) -> str:
    (height, width), (crop_height, crop_width) = grid.size, grid.crop_size
    images = "Image" if times == 1 else f"{times} images"
    crops = "1 crop" if grid.crops == 1 else f"{grid.crops} crops"
    parts = [f"base {grid.base_tokens}"]
    if grid.tile_rows:
        parts.append(f"grid {grid.rows} x {grid.columns}")
    if grid.newline_tokens:
        parts.append(f"newlines {grid.newline_tokens}")
    sum_of = f" = {' + '.join(parts)}" * (len(parts) > 1)
    shrunk = " x ".join(map(str, grid.unpadded))
    note = f" (grid shrunk from {shrunk})" if grid.shrinks else ""
    return (
        f"{images} {height} x {width}: {crops} of {crop_height} x {crop_width}, "
        f"{grid.tokens} tokens{sum_of}{note}"
    )


def _tokens(result: "Estimate") -> list[str]:
    trace = result.trace
    lines = [f"Tokens entering the layers: {_runs(trace.attention_tokens)}"]
    if trace.tower_tokens:
        *entering, left = trace.tower_tokens
        lines += [f"Of a frame entering the tower's layers: {_runs(entering)}; left: {left}"]
    return lines


def _runs(tokens: Sequence[int]) -> str:
    runs = [(count, len(list(layers))) for count, layers in groupby(tokens)]
    return ", ".join(f"{count} x{times}" if times > 1 else str(count) for count, times in runs)


def _memory(result: "Estimate") -> str:
    memory = result.memory
    text = (
        f"Memory: weights {show(memory.weights_bytes, 'B')}, "
        f"KV cache {show(memory.kv_cache_bytes, 'B')}, peak {show(memory.peak_bytes, 'B')}"
    )
    if memory.peak_bytes > result.device.memory_bytes:
        text += f"; does not fit the device's {show(result.device.memory_bytes, 'B')}"
    return text


def _verdict(result: "Estimate") -> list[str]:
    if not result.trace.reduces:
        return []
    baseline = result.baseline
    now, before = result.phase("llm"), baseline.phase("llm")
    if result.convention.counts_macs:
        fewer = f"{before.flops / now.flops:.2f}x"
        return [f"Against no reduction: LLM MACs {fewer} fewer. What it costs: not counted here."]
    speedup = baseline.ttft_s / result.ttft_s
    verdict = "the schedule pays" if speedup > 1 else "the schedule does not pay"
    return [
        f"Against no reduction: LLM FLOPs {before.flops / now.flops:.2f}x fewer, TTFT "
        f"{show_time(baseline.ttft_s)} -> {show_time(result.ttft_s)}, {speedup:.2f}x: {verdict}"
    ]
