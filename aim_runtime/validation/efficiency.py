"""Methods side by side: what each is predicted to cost, and what it cost when it ran."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from aim_cost.case import Estimate
from aim_cost.case.memory import kv_cache_bytes
from aim_cost.conventions.convention import EXECUTED
from aim_cost.ops.op import PHASES, in_phase
from aim_cost.render import Row
from aim_cost.schedules.executed import why_not_run
from aim_cost.schedules.trace import TokenTrace
from aim_cost.studies.compared import Compared
from aim_cost.studies.entry import average_tokens
from aim_runtime.measurement.measurement import Measurement
from aim_runtime.validation.counts import flops_differences


@dataclass(frozen=True)
class Efficiency:
    """One method, or no reduction, on one case.

    Args:
        compared: its price under each convention, by the convention's name; ``executed`` is there.
        measured: what ran; None where nothing does, which ``reason`` explains.
    """

    compared: Mapping[str, Compared]
    measured: Measurement | None = None

    @property
    def executed(self) -> Compared:
        """Its price as ``aim_runtime`` runs it."""
        return self.compared[EXECUTED.name]

    @property
    def label(self) -> str:
        return self.executed.label

    @property
    def predicted(self) -> Estimate | None:
        """None where the method does not fit the case."""
        counted = self.executed.counted
        return counted.result if counted else None

    @property
    def reason(self) -> str:
        """Why there is no schedule, or why it did not run; empty where it did."""
        entry = self.executed.entry
        if entry.schedule is None:
            return entry.reason
        if self.measured is not None:
            return self.measured.error or ""
        found = why_not_run(entry.schedule)
        return found.reason if found else ""

    @property
    def ran(self) -> Measurement | None:
        """What ran and was timed at least once."""
        timed = self.measured is not None and self.measured.ttft_s is not None
        return self.measured if timed else None

    @property
    def is_waiting(self) -> bool:
        """Whether it runs and an interrupt came before its first round."""
        return self.measured is not None and self.ran is None and not self.measured.error

    def published(self, convention: str) -> int | None:
        """FLOPs of the LLM under a convention, or the MACs that it counts; None if unpriced."""
        found = self.compared[convention].counted
        if found is None:
            return None
        return found.flops if found.macs is None else found.macs

    @property
    def phase_flops(self) -> Mapping[str, int] | None:
        """FLOPs of each of PHASES: counted by torch where it ran, else predicted."""
        if self.ran is not None and self.ran.flops is not None:
            return self.ran.flops
        if self.predicted is None:
            return None
        return {name: self.predicted.graph.phase(name).flops for name in PHASES}

    @property
    def flops(self) -> int | None:
        """Of the whole prefill, likewise."""
        return None if self.phase_flops is None else sum(self.phase_flops.values())

    @property
    def llm_flops(self) -> int | None:
        """Of LLM, merging and scores, likewise: all but the vision tower's."""
        if self.phase_flops is None:
            return None
        return sum(n for name, n in self.phase_flops.items() if not in_phase(name, "vision"))

    @cached_property
    def differences(self) -> tuple[str, ...]:
        """What ran otherwise than predicted, in words; nothing where nothing was counted."""
        if self.predicted is None or self.ran is None or self.ran.flops is None:
            return ()
        tokens, ran = self.predicted.trace.attention_tokens, self.ran.tokens_per_layer
        other = flops_differences(self.predicted, self.ran.flops)
        same = tokens == ran
        return other if same else (*other, f"tokens: predicted {tokens}, ran {ran}")

    @property
    def is_as_predicted(self) -> bool | None:
        """Whether FLOPs by phase and tokens by layer are; None where nothing was counted."""
        counted = self.ran is not None and self.ran.flops is not None
        return not self.differences if counted else None

    @property
    def trace(self) -> TokenTrace | None:
        """The predicted trace, with the tokens that entered each layer where it ran."""
        if self.predicted is None:
            return None
        tokens = self.ran.tokens_per_layer if self.ran else None
        predicted = self.predicted.trace
        return predicted if tokens is None else replace(predicted, attention_tokens=tokens)

    @property
    def average_tokens(self) -> float | None:
        """Visual tokens entering a layer of the LLM, the mean over its layers."""
        return average_tokens(self.trace) if self.trace else None

    @property
    def visual_tokens(self) -> int | None:
        """Visual tokens entering the LLM."""
        return self.trace.attention_tokens[0] - self.trace.text_tokens if self.trace else None

    @property
    def kv_cache_bytes(self) -> int | None:
        """After the prefill: each layer holds the tokens that entered it."""
        if self.trace is None or self.predicted is None:
            return None
        width = self.predicted.execution.element_bytes
        return kv_cache_bytes(self.predicted.model, self.trace, width)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token by the clock, seconds."""
        return self.ran.ttft_s if self.ran else None

    @property
    def end_to_end_s(self) -> float | None:
        """Vision, prefill and all tokens of the answer, seconds."""
        one_token = self.ran is not None and self.ran.key.answer_tokens == 1
        return self.ttft_s if one_token or self.ran is None else self.ran.end_to_end_s

    def to_row(self, first: "Efficiency", *, predicts_time: bool) -> Row:
        """One flat row, SI units; speed-ups are over ``first``.

        Tokens, ``kv_cache_bytes``, ``llm_flops`` and ``flops`` (the whole prefill) are those that
        ran where ``ran`` is true, else predicted ones; ``CONVENTION.flops`` are of the LLM. What
        was measured has the columns of ``aim-runtime measure``.
        Args: predicts_time, whether a device was named whose predicted times are to be there.
        """
        entry, predicted, ran = self.executed.entry, self.predicted, self.ran
        row: Row = {
            **(self.measured.to_row() if self.measured else {}),
            "kind": "efficiency",
            "method": entry.name,
            "label": self.label,
            "schedule": entry.schedule.label() if entry.schedule is not None else None,
            "ran": ran is not None,
            "reason": self.reason,
            "average_visual_tokens": self.average_tokens,
            "visual_tokens": self.visual_tokens,
        }
        for name, one in self.compared.items():
            row[f"{name}.flops"] = one.counted.flops if one.counted else None
        row |= {
            "llm_flops": self.llm_flops,
            "flops": self.flops,
            "flops_equal": self.is_as_predicted,
            "differences": list(self.differences),
            "predicted.total.flops": predicted.flops if predicted else None,
            "kv_cache_bytes": self.kv_cache_bytes,
            "ttft_s": self.ttft_s,
            "tpot_s": ran.tpot_s if ran else None,
            "end_to_end_s": self.end_to_end_s,
            "peak_memory_bytes": ran.peak_memory_bytes if ran else None,
            "predicted.peak_memory_bytes": predicted.memory.peak_bytes if predicted else None,
            "speedup": ratio(first.ttft_s, self.ttft_s),
            "end_to_end.speedup": ratio(first.end_to_end_s, self.end_to_end_s),
        }
        if predicts_time:
            ttft = predicted.ttft if predicted else None
            row |= {
                "predicted.ttft_s": ttft.time_s if ttft else None,
                "predicted.ttft_low_s": ttft.low_s if ttft else None,
                "predicted.ttft_high_s": ttft.high_s if ttft else None,
                "predicted.source": ttft.source if ttft else None,
            }
        return row


def ratio(first_s: float | None, other_s: float | None) -> float | None:
    """The speed-up of a time over the first one; None where one of them is missing."""
    return first_s / other_s if first_s and other_s else None
