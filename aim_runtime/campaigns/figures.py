"""Figures: FLOPs, times and memory that the model predicts for one prefill."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aim_cost.case import Estimate
from aim_cost.case.memory import prefill_memory
from aim_cost.ops.op import GROUPS, PHASES
from aim_cost.render import Row
from aim_cost.timing.prefill_time import PhaseTime
from aim_cost.timing.time_source import TimeSource

_NAMES = tuple(dict.fromkeys((*GROUPS, *PHASES)))


@dataclass(frozen=True)
class Span:
    """A predicted time with its 90 % band, seconds; no band for a roofline."""

    time_s: float
    low_s: float | None = None
    high_s: float | None = None

    @classmethod
    def of(cls, time: PhaseTime) -> "Span":
        return cls(time.time_s, time.low_s, time.high_s)


@dataclass(frozen=True)
class Figures:
    """The model's figures of one prefill.

    Args:
        times, flops_of: of each phase and group of phases.
        flops: of the whole prefill.
        extrapolated: share of the TTFT from kernels of sizes that the calibration never saw.
        peak_memory_bytes: with the tensors that today's transformers holds.
        peak_with_tower_states_bytes: with those of releases whose vision tower keeps the states
            of all its layers; None in predictions that were written before both were predicted.
        prompt_tokens, tokens_per_layer: after merging, and entering each layer of the LLM.
    """

    times: Mapping[str, Span]
    flops_of: Mapping[str, int]
    flops: int
    ttft: Span
    source: TimeSource
    extrapolated: float
    weights_bytes: int
    kv_cache_bytes: int
    peak_memory_bytes: int
    peak_with_tower_states_bytes: int | None
    prompt_tokens: int
    tokens_per_layer: tuple[int, ...]

    @classmethod
    def of_estimate(cls, found: Estimate) -> "Figures":
        """The figures of an estimate, under the newest transformers."""
        older = replace(found.execution, keeps_tower_states=True)
        with_states = prefill_memory(found.model, found.workload, found.trace, older)
        return cls(
            times={name: Span.of(found.time(name)) for name in _NAMES},
            flops_of={name: int(found.graph.phase(name).flops) for name in _NAMES},
            flops=found.flops,
            ttft=Span.of(found.ttft),
            source=found.ttft.source,
            extrapolated=found.ttft.extrapolated,
            weights_bytes=found.memory.weights_bytes,
            kv_cache_bytes=found.memory.kv_cache_bytes,
            peak_memory_bytes=found.memory.peak_bytes,
            peak_with_tower_states_bytes=with_states.peak_bytes,
            prompt_tokens=found.trace.prompt_tokens,
            tokens_per_layer=found.trace.attention_tokens,
        )

    def peak_bytes(self, *, keeps_tower_states: bool) -> int | None:
        """The peak under a release of transformers; None where it was not predicted."""
        return self.peak_with_tower_states_bytes if keeps_tower_states else self.peak_memory_bytes

    def to_row(self) -> Row:
        """Flat, under the keys of estimates."""
        row: Row = {}
        for name in _NAMES:
            row |= _columns(f"{name}.time", self.times[name])
            row[f"{name}.flops"] = self.flops_of[name]
        return row | {
            "total.flops": self.flops,
            **_columns("ttft", self.ttft),
            "source": self.source.value,
            "extrapolated": self.extrapolated,
            "weights_bytes": self.weights_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "peak_memory_with_tower_states_bytes": self.peak_with_tower_states_bytes,
            "prompt_tokens": self.prompt_tokens,
            "tokens_per_layer": list(self.tokens_per_layer),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Figures":
        """The inverse of ``to_row``. Raises: KeyError for another row."""
        return cls(
            times={name: _span(f"{name}.time", row) for name in _NAMES},
            flops_of={name: row[f"{name}.flops"] for name in _NAMES},
            flops=row["total.flops"],
            ttft=_span("ttft", row),
            source=TimeSource(row["source"]),
            extrapolated=row["extrapolated"],
            weights_bytes=row["weights_bytes"],
            kv_cache_bytes=row["kv_cache_bytes"],
            peak_memory_bytes=row["peak_memory_bytes"],
            peak_with_tower_states_bytes=row.get("peak_memory_with_tower_states_bytes"),
            prompt_tokens=row["prompt_tokens"],
            tokens_per_layer=tuple(row["tokens_per_layer"]),
        )


def _columns(name: str, span: Span) -> Row:
    return {f"{name}_s": span.time_s, f"{name}_low_s": span.low_s, f"{name}_high_s": span.high_s}


def _span(name: str, row: Mapping[str, Any]) -> Span:
    return Span(row[f"{name}_s"], row[f"{name}_low_s"], row[f"{name}_high_s"])
