"""Measurement: a prefill that was timed, phase by phase."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aim_cost.ops.op import PHASES
from aim_cost.render import Row
from aim_runtime.measurement.origin import Origin
from aim_runtime.measurement.row_key import RowKey

PHASE_TIMES = (
    "vision.tower",
    "vision.projector",
    "vision.pooling",
    "merge",
    "llm.head",
    "importance",
    "other",
    "vision",
    "llm.layers",
    "llm",
)
"""The phases and groups of phases that a measurement has times of, in the order of its row."""


@dataclass(frozen=True)
class Measurement:
    """One schedule as the clock saw it: medians over ``repeats`` runs, seconds.

    Args:
        key: what ran, where and how.
        phase_s: of each of PHASE_TIMES; None before the first timed run, after a failure, and
            where phases cannot be told apart.
        ttft_s, ttft_low_s, ttft_high_s: time to first token and its quartiles; None likewise.
        peak_memory_bytes: that torch allocated on a GPU; None on a CPU.
        driver_allocations: how often the timed runs asked the driver for memory, which takes
            time; None where nobody counts.
        tokens_per_layer: that entered each layer of the LLM.
        error: why it failed, in a line.
        flops: of each of PHASES, as torch counted them in a run of its own; None where nobody
            counted.
        tpot_s: the mean time of an output token after the first; end_to_end_s: the prefill and
            all tokens of the answer; None where ``ttft_s`` is, and without an answer.
        origin: the step of a campaign that it belongs to, if any.
    """

    key: RowKey
    phase_s: Mapping[str, float | None]
    ttft_s: float | None
    ttft_low_s: float | None
    ttft_high_s: float | None
    peak_memory_bytes: int | None
    driver_allocations: int | None
    tokens_per_layer: tuple[int, ...] | None
    repeats: int
    error: str | None = None
    flops: Mapping[str, int] | None = None
    tpot_s: float | None = None
    end_to_end_s: float | None = None
    origin: Origin | None = None

    def to_row(self) -> Row:
        """One flat row under the keys of estimates.

        FLOPs are in it where they were counted, times of an answer where one was decoded.
        """
        tokens, counted = self.tokens_per_layer, self.flops or {}
        answer: Row = {"tpot_s": self.tpot_s, "end_to_end_s": self.end_to_end_s}
        return {
            "kind": "measurement",
            **self.key.to_row(),
            **{f"{name}.time_s": self.phase_s[name] for name in PHASE_TIMES},
            "ttft_s": self.ttft_s,
            "ttft_low_s": self.ttft_low_s,
            "ttft_high_s": self.ttft_high_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "driver_allocations": self.driver_allocations,
            "tokens_per_layer": None if tokens is None else list(tokens),
            "repeats": self.repeats,
            "error": self.error,
            **{f"counted.{name}.flops": flops for name, flops in counted.items()},
            **(answer if self.key.answer_tokens > 1 else {}),
            **(self.origin.to_row() if self.origin else {}),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Measurement":
        """The inverse of ``to_row``. Raises: KeyError for another row."""
        tokens = row.get("tokens_per_layer")
        counted = {name: row[key] for name in PHASES if (key := f"counted.{name}.flops") in row}
        return cls(
            key=RowKey.of(row),
            phase_s={name: row.get(f"{name}.time_s") for name in PHASE_TIMES},
            ttft_s=row.get("ttft_s"),
            ttft_low_s=row.get("ttft_low_s"),
            ttft_high_s=row.get("ttft_high_s"),
            peak_memory_bytes=row.get("peak_memory_bytes"),
            driver_allocations=row.get("driver_allocations"),
            tokens_per_layer=None if tokens is None else tuple(tokens),
            repeats=row["repeats"],
            error=row["error"],
            flops=counted or None,
            tpot_s=row.get("tpot_s"),
            end_to_end_s=row.get("end_to_end_s"),
            origin=Origin.of(row),
        )
