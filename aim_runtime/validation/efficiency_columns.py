"""The columns of an efficiency table: heads, cells and sources, whatever the form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import floor, log10

from aim_cost.conventions.convention import Convention
from aim_cost.units import giga, mega, milli, tera
from aim_runtime.validation.efficiency import Efficiency, ratio
from aim_runtime.validation.efficiency_run import EfficiencyTable

MISSING = "-"
"""A cell of which nothing is known."""


class Source(StrEnum):
    """Where the figures of a column come from, in words."""

    CONVENTION = "By published convention, of the LLM's prefill"
    COUNTED = "Counted in the run"
    MEASURED = "Measured"
    PREDICTED = "Predicted"


@dataclass(frozen=True)
class Column:
    """A column; ``head`` may have two lines, ``cells`` has a text for each row."""

    head: str
    source: Source
    cells: tuple[str, ...]


def memory_columns(table: EfficiencyTable) -> list[Column]:
    """Visual tokens, the cache that they leave, and the peak of memory."""
    rows, counted = table.rows, Source.COUNTED
    peak = [row.ran.peak_memory_bytes if row.ran else None for row in rows]
    return [
        Column("tokens\nmean", counted, _fixed([row.average_tokens for row in rows], 1)),
        Column("tokens\nentering", counted, _fixed([row.visual_tokens for row in rows], 0)),
        Column("KV\nMB", counted, _rounded([row.kv_cache_bytes for row in rows], mega, 3)),
        Column("peak\nGB", Source.MEASURED, _rounded(peak, giga, 3)),
    ]


def flops_columns(table: EfficiencyTable) -> list[Column]:
    """FLOPs of the LLM under each published convention that was asked for, and as executed."""
    rows, counted = table.rows, Source.COUNTED
    prefix, unit = _flops_unit(rows[0])
    llm, whole = [row.llm_flops for row in rows], [row.flops for row in rows]
    return [
        *(_published(convention, rows, prefix, unit) for convention in table.published),
        Column(f"LLM\n{prefix}FLOPs", counted, _rounded(llm, unit, 4)),
        Column(f"all\n{prefix}FLOPs", counted, _rounded(whole, unit, 4)),
    ]


def time_columns(table: EfficiencyTable) -> list[Column]:
    """Times, and speed-ups over the first row."""
    rows, measured, first = table.rows, Source.MEASURED, table.rows[0]
    ttft, end_to_end = [row.ttft_s for row in rows], [row.end_to_end_s for row in rows]
    predicted = [row.predicted.ttft_s if row.predicted else None for row in rows]
    tpot = [row.ran.tpot_s if row.ran else None for row in rows]
    columns = [Column("prefill\nms", measured, _rounded(ttft, milli, 3))]
    if table.predicts_time:
        cells = _rounded(predicted, milli, 3)
        columns.append(Column("predicted\nms", Source.PREDICTED, cells))
    return [
        *columns,
        Column("prefill\nspeed-up", measured, _speed_ups(first.ttft_s, ttft)),
        Column("TPOT\nms", measured, _rounded(tpot, milli, 3)),
        Column("E2E\ns", measured, _rounded(end_to_end, float, 3)),
        Column("E2E\nspeed-up", measured, _speed_ups(first.end_to_end_s, end_to_end)),
    ]


def _published(
    convention: Convention,
    rows: Sequence[Efficiency],
    prefix: str,
    unit: Callable[[float], float],
) -> Column:
    kind = "MACs" if convention.counts_macs else "FLOPs"
    cells = _rounded([row.published(convention.name) for row in rows], unit, 4)
    return Column(f"{convention.name}\n{prefix}{kind}", Source.CONVENTION, cells)


def _flops_unit(first: Efficiency) -> tuple[str, Callable[[float], float]]:
    """The prefix of all FLOPs of a table, and what scales to it: T for models of ordinary size."""
    flops = first.llm_flops or 0
    if tera(flops) >= 0.01:
        return "T", tera
    return ("G", giga) if giga(flops) >= 0.01 else ("M", mega)


def _speed_ups(first_s: float | None, times_s: Sequence[float | None]) -> tuple[str, ...]:
    return _fixed([ratio(first_s, time_s) for time_s in times_s], 2)


def _rounded(
    values: Sequence[float | None], unit: Callable[[float], float], digits: int
) -> tuple[str, ...]:
    """Values in a unit, with the decimals that give the largest one ``digits`` digits or more."""
    scaled = [None if value is None else unit(value) for value in values]
    largest = max((value for value in scaled if value is not None), default=0.0)
    decimals = digits - 1 - floor(log10(largest)) if largest > 0 else 0
    return _fixed(scaled, max(0, decimals))


def _fixed(values: Sequence[float | None], decimals: int) -> tuple[str, ...]:
    return tuple(MISSING if value is None else f"{value:.{decimals}f}" for value in values)
