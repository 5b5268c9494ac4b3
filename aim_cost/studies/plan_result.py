"""Plan: what ``plan`` returns, as a row and as the table that ``aim-cost plan`` prints."""

from dataclasses import dataclass

from rich.console import Group, RenderableType

from aim_cost.case import Case, Estimate
from aim_cost.papers.accuracy import benchmark_title, sampling_note
from aim_cost.render import Report, Row, table
from aim_cost.studies.candidates import LIMIT_FLAGS, Limits, show_limit
from aim_cost.studies.cited import Cited
from aim_cost.timing.prefill_time import is_faster
from aim_cost.units import show, show_time


@dataclass(frozen=True)
class Plan(Report):
    """What ``plan`` returns; ``print`` and notebooks show it as ``aim-cost plan`` does.

    Args:
        result, baseline: the chosen schedule's estimate, and that of no reduction, equal frames.
        benchmark: that ``difference`` is of; difference: expected, points, None without evidence.
        basis: one of ``evidence.BASES``; rows: those it rests on, none to two.
        other_models: whose scores stand in the user's files too; they are no evidence.
        llm_share: LLM FLOPs, of those of ``baseline``.
        binding: the limits that the candidate ranked just above breaks; none where it is the first.
        least_reduction: the schedule within the limits that keeps most LLM FLOPs, evidence or not.
        candidates, feasible: how many were priced, and how many keep the limits on time and FLOPs.
    """

    case: Case
    limits: Limits
    result: Estimate
    benchmark: str
    difference: float | None
    basis: str
    rows: tuple[Cited, ...]
    other_models: tuple[str, ...]
    binding: tuple[str, ...]
    least_reduction: Estimate
    candidates: int
    feasible: int

    @property
    def baseline(self) -> Estimate:
        return self.result.baseline

    @property
    def llm_share(self) -> float:
        return self.result.phase("llm").flops / self.baseline.phase("llm").flops

    def __rich__(self) -> RenderableType:
        return _table(self)

    def to_row(self) -> Row:
        """One flat row, SI units, dots between the levels."""
        priced, keep = self.result.to_row(), self.least_reduction
        names = ("model", "hardware", "dtype", "execution", "frames", "text_tokens", "batch")
        figures = ("ttft_s", "ttft_low_s", "ttft_high_s", "total.flops", "llm.flops")
        memory = ("peak_memory_bytes", "kv_cache_bytes", "source")
        row = {"kind": "plan", "schedule": priced["schedule"]}
        row |= {"schedule_file": self.result.schedule.to_dict()}
        row |= {name: priced[name] for name in (*names, *figures, *memory)}
        row |= {"llm_share": self.llm_share, "baseline.ttft_s": self.baseline.ttft_s}
        row |= {
            "accuracy.benchmark": self.benchmark,
            "accuracy.difference": self.difference,
            "accuracy.evidence": self.rows[0].evidence if self.rows else "no evidence",
            "accuracy.basis": self.basis if self.rows else None,
            "accuracy.source": self.rows[0].source if self.rows else None,
            "accuracy.left_out": list(self.other_models),
            "accuracy.rows": [row.to_row() for row in self.rows],
        }
        row |= {f"limits.{name}": value for name, value in vars(self.limits).items()}
        if self.result.notes:
            row["notes"] = list(self.result.notes)
        return row | {
            "binding_limit": list(self.binding),
            "least_reduction.schedule": keep.schedule.label(),
            "least_reduction.frames": keep.workload.frames,
            "least_reduction.ttft_s": keep.ttft_s,
            "candidates": self.candidates,
            "feasible": self.feasible,
        }


def _table(plan: Plan) -> RenderableType:
    """The table of the schedule, its cost against the limits, and the evidence for its accuracy."""
    result, workload = plan.result, plan.result.workload
    title = (
        f"{result.schedule.label()}, {workload.frames} frames\n"
        f"{result.model.name} on {result.device.name}, {workload.text_tokens} text tokens, "
        f"batch {workload.batch}, {result.execution.dtype}, {result.mode}"
    )
    speedup = plan.baseline.ttft_s / result.ttft_s
    note = (
        f"Against no reduction of {workload.frames} frames: LLM FLOPs "
        f"{100 * plan.llm_share:.0f} %, TTFT {speedup:.2f}x{_faster(plan)}. "
        f"Times: {result.ttft.source}."
    )
    text = [
        _accuracy(plan),
        *_rows(plan),
        _left_out(plan),
        _binding(plan),
        _least(plan),
        _search(plan),
    ]
    text += plan.result.notes
    figures = table(title, ("", "expected", "90 % band", "limit"), _figures(plan), note)
    return Group(figures, "", *filter(None, text))


def _faster(plan: Plan) -> str:
    if not plan.result.trace.reduces:
        return ""
    faster = is_faster(plan.result.ttft, plan.baseline.ttft)
    return {True: " faster", False: ", slower", None: ", inside the band"}[faster]


def _figures(plan: Plan) -> list[tuple[str, str, str, str]]:
    result, limits = plan.result, plan.limits
    ttft = result.ttft
    high = show_time(ttft.high_s) if ttft.high_s is not None else "open"
    uses = {
        "ttft_s": ("TTFT", result.ttft_s, f"{show_time(ttft.low_s)} - {high}"),
        "flops": ("FLOPs, all phases", result.flops, ""),
        "memory_bytes": ("peak memory", result.memory.peak_bytes, ""),
    }
    lines = []
    for name, (label, value, band) in uses.items():
        limit = limits.given().get(name)
        shown = "-" if limit is None else show_limit(name, limit)
        lines.append((label, show_limit(name, value), band, shown))
    lines.append(("KV cache", show(result.memory.kv_cache_bytes, "B"), "", "-"))
    return lines


def _accuracy(plan: Plan) -> str:
    name = benchmark_title(plan.benchmark)
    if plan.difference is None:
        return (
            f"{name}: no evidence for this schedule of this model. It is the one within the limits "
            "that reduces least; aim-runtime accuracy or lmms-eval measures it (--accuracy)."
        )
    how = "a score of this very schedule"
    if plan.basis == "interpolated":
        how = "interpolated between two rows, linear in LLM FLOPs"
    row = plan.rows[0]
    unit, sampling = "points", _sampling(plan.benchmark, row)
    if row.scale == "points":
        unit = "of the benchmark's own points"
    if row.lower_is_better is True:
        unit += " (lower is better: a plus is a gain)"
    return (
        f"{name}: expected difference to no reduction {plan.difference:+.1f} {unit}; {how}. "
        f"Evidence: {row.evidence}, {row.source}. {sampling}"
    ).rstrip()


def _sampling(benchmark: str, row: Cited) -> str:
    """A sentence on the sampling error of a score; own scores have it only in percent."""
    if row.evidence == "published":
        return sampling_note(benchmark)
    of_questions = row.scale == "percent" and not row.lower_is_better
    return sampling_note(benchmark, row.n) if of_questions and row.n is not None else ""


def _rows(plan: Plan) -> list[str]:
    return [f"  {_row(row)}" for row in plan.rows]


def _row(row: Cited) -> str:
    frames = "" if row.frames is None else f"{row.frames} frames, "
    note = f", {row.note}" if row.evidence == "own" and row.note else ""
    return (
        f"{frames}{row.schedule.label()}: {row.accuracy:.1f} against {row.baseline:.1f} "
        f"({row.difference:+.1f}){note}"
    )


def _left_out(plan: Plan) -> str:
    if not plan.other_models:
        return ""
    return f"Left out: scores of {', '.join(plan.other_models)}, which are other models."


def _binding(plan: Plan) -> str:
    if not plan.binding:
        return "No limit binds: no candidate is expected to do better."
    names = ", ".join(LIMIT_FLAGS[name] for name in plan.binding)
    return f"Binding: {names}; candidates expected to do better break it."


def _least(plan: Plan) -> str:
    least = plan.least_reduction
    if plan.difference is None or least.schedule == plan.result.schedule:
        return ""
    return (
        f"Least reduction within the limits, whatever the evidence: {least.schedule.label()}, "
        f"{least.workload.frames} frames, {show_time(least.ttft_s)}."
    )


def _search(plan: Plan) -> str:
    text = f"{plan.feasible:,} of {plan.candidates:,} candidates keep the limits on time and FLOPs."
    high_s, limit_s = plan.result.ttft.high_s, plan.limits.ttft_s
    if limit_s is not None and (high_s is None or high_s > limit_s):
        text += " The band reaches over the limit on TTFT: leave a margin, or measure."
    return text
