"""Compared: one method of a comparison, counted under one convention."""

from dataclasses import dataclass, replace
from functools import cached_property

from aim_cost.case import Estimate
from aim_cost.conventions.convention import EXECUTED, Convention
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.papers.figures import Figure, find_figure
from aim_cost.render import Row
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.entry import BASELINE, Entry, average_tokens, reduced_flops


@dataclass(frozen=True)
class Counted:
    """What a method costs under a convention.

    Args:
        result: the method's price; base: that of no reduction under the same convention.
        figure: what a paper prints for it, if any.
    """

    result: Estimate
    base: Estimate
    figure: Figure | None

    @cached_property
    def flops(self) -> int:
        """Of the LLM, with what merging and scores add where the convention counts those."""
        return reduced_flops(self.result)

    @property
    def macs(self) -> int | None:
        """Half of the FLOPs; None under conventions that do not count multiply-adds."""
        return self.flops // 2 if self.result.convention.counts_macs else None

    @cached_property
    def flops_share(self) -> float:
        return self.flops / reduced_flops(self.base)

    def to_row(self) -> Row:
        """Columns of a row."""
        row: Row = {"flops": self.flops}
        if self.macs is not None:
            row["macs"] = self.macs
        figure = self.figure
        return row | {
            "flops_share": self.flops_share,
            "published": figure.printed if figure else None,
            "published.text_tokens": figure.workload.text_tokens if figure else None,
            "published.computed": figure.gives if figure else None,
            "published.note": figure.remark if figure else None,
            "source": figure.source if figure else None,
        }


@dataclass(frozen=True)
class Executed:
    """What only a run has: tokens, memory, time, and what choosing the tokens costs.

    Args:
        result, base: as executed, as of Counted.
        free: the same counts, chosen at no cost.
    """

    result: Estimate
    base: Estimate
    free: Estimate

    @property
    def tokens(self) -> float:
        """Visual tokens entering a layer, the mean over the layers."""
        return average_tokens(self.result.trace)

    @property
    def tokens_share(self) -> float:
        return self.tokens / average_tokens(self.base.trace)

    @property
    def scoring_share(self) -> float:
        """Of the TTFT, what goes when the same counts are chosen at no cost."""
        return (self.result.ttft_s - self.free.ttft_s) / self.result.ttft_s

    @property
    def keeps_flash(self) -> bool:
        """Whether no layer of the LLM has to write its attention matrix."""
        trace = self.result.trace
        writes = bool(trace.scored_layers) and not LAYER_SCORES[trace.importance].flash
        return self.result.execution.attention == "sdpa" and not writes

    def to_row(self) -> Row:
        """Columns of a row."""
        result, ttft = self.result, self.result.ttft
        return {
            "average_visual_tokens": self.tokens,
            "average_visual_tokens_share": self.tokens_share,
            "total.flops": result.flops,
            "kv_cache_bytes": result.memory.kv_cache_bytes,
            "ttft_s": ttft.time_s,
            "ttft_low_s": ttft.low_s,
            "ttft_high_s": ttft.high_s,
            "bound": ttft.bound,
            "time_source": ttft.source,
            "speedup": self.base.ttft_s / result.ttft_s,
            "scoring.flops": reduced_flops(result) - reduced_flops(self.free),
            "scoring.time_s": result.ttft_s - self.free.ttft_s,
            "scoring.time_share": self.scoring_share,
            "flash_attention": self.keeps_flash,
            **({"notes": list(result.notes)} if result.notes else {}),
        }


@dataclass(frozen=True)
class Compared:
    """One method of a comparison under one convention.

    Args:
        label: tells two entries of one method apart.
        counted: None where the entry has no schedule, and says why.
        executed: under the convention of this name alone.
    """

    entry: Entry
    label: str
    convention: Convention
    counted: Counted | None
    executed: Executed | None

    @classmethod
    def of(cls, entry: Entry, label: str, base: Estimate) -> "Compared":
        """Price an entry for the case and under the convention of ``base``, no reduction."""
        convention = base.convention
        if entry.schedule is None:
            return cls(entry, label, convention, None, None)
        result = base.case.price(entry.schedule, convention)
        counted = Counted(result, base, find_figure(entry.name, result))
        executed = None
        if convention is EXECUTED:
            executed = Executed(result, base, base.case.price(free_twin(entry.schedule)))
        return cls(entry, label, convention, counted, executed)

    @property
    def is_baseline(self) -> bool:
        return self.entry is BASELINE

    @property
    def counts(self) -> str:
        """How the counts of the method come about, one of COUNTS."""
        return self.entry.method.counts if self.entry.method else "static"

    def to_row(self) -> Row:
        """One flat row; ``Comparison.to_rows`` says what the columns mean."""
        entry = self.entry
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in entry.parameters.items()}
        row: Row = {
            "kind": "comparison",
            "method": entry.name,
            "label": self.label,
            "parameters": {name: value for name, value in values.items() if value is not None},
            "schedule": entry.schedule.label() if entry.schedule is not None else None,
            "counts": self.counts,
            "method_source": entry.method.source if entry.method else "",
            "reason": entry.reason,
            "convention": self.convention.name,
        }
        for part in (self.counted, entry.met, self.executed):
            row |= part.to_row() if part else {}
        return row


def free_twin(schedule: Schedule) -> Schedule:
    """The same counts, tokens chosen at no cost: what is left of the price is not the scoring's.

    Merging in the tower stays as it is, and so do the frames: what they cost belongs to the tower.
    """
    merge, prune, select = schedule.merge, schedule.prune, schedule.select
    return Schedule(
        replace(merge, by="random") if merge else None,
        replace(prune, importance="offline") if prune else None,
        replace(select, by="uniform") if select else None,
        schedule.vision_merge,
        schedule.sample,
    )
