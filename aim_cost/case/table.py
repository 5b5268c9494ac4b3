"""The parts of an estimate's table: what ``aim-cost predict`` prints and a notebook shows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from rich.table import Table

from aim_cost.case.memory import Memory
from aim_cost.case.phase import PhaseEstimate
from aim_cost.conventions.convention import Convention
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.models.images import ImageGrid
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, LastLayer, Workload
from aim_cost.render import table
from aim_cost.schedules.trace import TokenTrace
from aim_cost.timing.prefill_time import PhaseTime, is_faster
from aim_cost.units import giga, milli, show, show_time, tera


def describe_workload(model: ModelSpec, workload: Workload, execution: Execution, mode: str) -> str:
    """One line: the inputs of a prefill and how it runs; ``mode``, the execution timed."""
    return (
        f"{workload.label()}{_size(model, workload)} + {workload.text_tokens} text tokens, "
        f"batch {workload.batch}, execution {mode}{_last_layer(execution)}"
    )


def phase_table(
    title: str,
    phases: Mapping[str, PhaseEstimate],
    total: PhaseEstimate,
    convention: Convention,
) -> Table:
    """One row for each of ``phases`` that runs any op, and one for the whole prefill."""
    rows = [
        (name, *_figures(phase, convention, share=f"{100 * phase.time_s / total.time_s:.0f} %"))
        for name, phase in phases.items()
        if phase.flops or phase.time_s
    ]
    rows.append(("TTFT", *_figures(total, convention, share="")))
    left_out = "Not counted" if convention.counts_macs else "FLOPs not counted"
    note = (
        f"Convention {convention.name}: {convention.summary}. {left_out}: "
        f"{', '.join(convention.not_counted)}. {_time_note(total, convention)}{_unseen(total)}"
    )
    counts = ("TMACs", "TFLOPs") if convention.counts_macs else ("TFLOPs", "GB moved")
    return table(title, ("phase", *counts, "ms", "90 % band", "share", "bound"), rows, note)


def image_lines(grids: Iterable[ImageGrid]) -> list[str]:
    """One line for each image size: what the tower gets and how the tokens come about."""
    return [_image(grid, times) for grid, times in Counter(grids).items()]


def token_lines(trace: TokenTrace) -> list[str]:
    """How many tokens enter each layer of the LLM, and of the tower where it merges."""
    lines = [f"Tokens entering the layers: {_runs(trace.attention_tokens)}"]
    if trace.tower_tokens:
        *entering, left = trace.tower_tokens
        lines += [f"Of a frame entering the tower's layers: {_runs(entering)}; left: {left}"]
    return lines


def memory_line(memory: Memory, device: HardwareProfile) -> str:
    """Weights, KV cache and peak, and whether ``device`` has room for them."""
    text = (
        f"Memory: weights {show(memory.weights_bytes, 'B')}, "
        f"KV cache {show(memory.kv_cache_bytes, 'B')}, peak {show(memory.peak_bytes, 'B')}"
    )
    if memory.peak_bytes > device.memory_bytes:
        text += f"; does not fit the device's {show(device.memory_bytes, 'B')}"
    return text


_PAYS = {
    True: "the schedule pays",
    False: "the schedule does not pay",
    None: "whether the schedule pays is open, for the band is wider",
}


def verdict(
    convention: Convention, *, fewer_flops: float, baseline: PhaseTime, ttft: PhaseTime
) -> str:
    """Whether a schedule pays; ``fewer_flops``: LLM FLOPs of no reduction over its own."""
    fewer = f"{fewer_flops:.2f}x"
    if convention.counts_macs:
        return f"Against no reduction: LLM MACs {fewer} fewer. What it costs: not counted here."
    speedup = baseline.time_s / ttft.time_s
    pays = _PAYS[is_faster(ttft, baseline)]
    return (
        f"Against no reduction: LLM FLOPs {fewer} fewer, TTFT "
        f"{show_time(baseline.time_s)} -> {show_time(ttft.time_s)}, {speedup:.2f}x: {pays}"
    )


def _size(model: ModelSpec, workload: Workload) -> str:
    """The resolution, where it is the workload's choice."""
    vision = workload.sized(model).vision
    if not vision.any_size or workload.images is not None:
        return ""
    height, width = vision.frame_size
    return f" ({height} x {width})"


def _last_layer(execution: Execution) -> str:
    """What the last layer computes, where that is not what transformers does."""
    return (
        "" if execution.last_layer is LastLayer.ALL else f", last layer as {execution.last_layer}"
    )


def _time_note(total: PhaseEstimate, convention: Convention) -> str:
    """A sentence on the source of the times and on what they leave out."""
    if convention.counts_macs:
        return (
            "1 MAC = 2 FLOPs. The convention has no times: these are its FLOPs at the device's "
            "peak, a lower bound."
        )
    return total.source.sentence


def _unseen(total: PhaseEstimate) -> str:
    """A sentence on the share of the time that is of sizes outside the calibration's tables."""
    if total.extrapolated < 0.005:
        return ""
    return f" Extrapolated: {100 * total.extrapolated:.0f} % of it is of sizes never timed."


def _figures(phase: PhaseEstimate, convention: Convention, *, share: str) -> tuple[str, ...]:
    """The cells of a row after its name: work, time, band, share and bound."""
    moved = f"{giga(phase.read_bytes + phase.write_bytes):.2f}"
    counts = (_tera(phase.flops), moved)
    if convention.counts_macs:
        counts = (_tera(phase.flops / 2), _tera(phase.flops))
    band = _band(phase.time_low_s, phase.time_high_s)
    return (*counts, _milli(phase.time_s), band, share, phase.bound)


def _band(low_s: float, high_s: float | None) -> str:
    """The band in milliseconds; an open one where the time is a lower bound."""
    return f"{_milli(low_s)} - {_milli(high_s)}" if high_s is not None else f"over {_milli(low_s)}"


def _milli(seconds: float) -> str:
    return f"{milli(seconds):.1f}"


def _tera(count: float) -> str:
    return f"{tera(count):.3f}"


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


def _runs(tokens: Sequence[int]) -> str:
    runs = [(count, len(list(layers))) for count, layers in groupby(tokens)]
    return ", ".join(f"{count} x{times}" if times > 1 else str(count) for count, times in runs)
