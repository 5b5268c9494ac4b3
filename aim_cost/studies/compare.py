"""compare(): methods beside each other, counted as each paper counts and as they run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aim_cost.case import Estimate, estimate
from aim_cost.conventions.convention import EXECUTED, Convention
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.errors import ScheduleError
from aim_cost.methods.method import Method, Request
from aim_cost.methods.parameter import Value
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.papers.figures import NO_REDUCTION, find_figure
from aim_cost.schedules.schedule import EXECUTED_RULE, Schedule
from aim_cost.schedules.trace import TokenTrace
from aim_cost.timing import Calibration


@dataclass(frozen=True)
class Case:
    """What is compared: everything but the methods."""

    model: ModelSpec
    workload: Workload
    hardware: HardwareProfile
    execution: Execution = field(default_factory=Execution)
    calibration: Calibration | None = None

    def price(self, schedule: Schedule, convention: Convention = EXECUTED) -> Estimate:
        return estimate(
            *(self.model, self.workload, schedule, self.hardware, self.execution),
            convention=convention,
            calibration=self.calibration,
        )


@dataclass(frozen=True)
class Entry:
    """One method of a comparison, resolved; ``schedule`` is None where ``reason`` says why.

    Args: budget, how a budget was met, as columns of the row.
    """

    method: Method | None
    parameters: Mapping[str, Value] = field(default_factory=dict)
    schedule: Schedule | None = None
    reason: str = ""
    budget: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.method.name if self.method else NO_REDUCTION


BASELINE = Entry(None, schedule=Schedule())
"""No reduction, what shares are of."""

_ANY_TEXT = replace(EXECUTED_RULE, least_text_tokens=0)


def token_trace(case: Case, schedule: Schedule) -> TokenTrace:
    """The trace as executed; a case without text, which conventions may count, has one too."""
    return schedule.resolve(case.model, case.workload, _ANY_TEXT)


def resolve(case: Case, request: Request) -> Entry:
    """The method on ``case``; one that does not fit it says so in the entry.

    Raises: ScheduleError when a parameter that was given is wrong.
    """
    method, given = request.method, request.given
    method.check(case.model, given)
    try:
        values = method.values(case.model, given)
        schedule = method.schedule(case.model, case.workload, **given)
        token_trace(case, schedule)
    except ScheduleError as error:
        return Entry(method, given, reason=str(error))
    return Entry(method, values, schedule)


def average_tokens(trace: TokenTrace) -> float:
    """Visual tokens entering a layer, newline included: the mean over the layers."""
    return sum(trace.attention_tokens) / len(trace.attention_tokens) - trace.text_tokens


def reduced_flops(result: Estimate) -> int:
    """FLOPs of the LLM, and of the merging and the scores where the convention counts them."""
    return sum(result.phase(name).flops for name in ("merge", "llm", "importance"))


def free_twin(schedule: Schedule) -> Schedule:
    """The same counts, tokens chosen at no cost: what is left of the price is not the scoring's.

    Merging in the tower stays as it is: what it costs belongs to the tower.
    """
    merge, prune, select = schedule.merge, schedule.prune, schedule.select
    return Schedule(
        replace(merge, by="random") if merge else None,
        replace(prune, importance="offline") if prune else None,
        replace(select, by="uniform") if select else None,
        schedule.vision_merge,
    )


def compare(
    case: Case,
    entries: Iterable[Entry],
    conventions: Sequence[Convention],
) -> list[dict[str, Any]]:
    """Rows of a comparison: no reduction first, then each entry, under each convention.

    ``flops`` and, where the convention counts them, ``macs`` are of the LLM with what merging and
    scores add where the convention counts those; shares are of no reduction under the same
    convention. Rows of ``executed`` also have tokens, memory, time and what the scoring costs.
    ``published`` is the figure that a paper prints for this schedule, as printed, in units of
    10**12; its text may be another: ``published.computed`` is our count at its own workload.
    ``label`` tells two entries of one method apart.
    """
    unreduced = [case.price(Schedule(), convention) for convention in conventions]
    rows, seen = [], Counter[str]()
    for entry in (BASELINE, *entries):
        seen[entry.name] += 1
        times = seen[entry.name]
        label = entry.name if times == 1 else f"{entry.name} ({times})"
        for convention, base in zip(conventions, unreduced, strict=True):
            row = _head(entry, label) | {"convention": convention.name}
            if entry.schedule is not None:
                result = case.price(entry.schedule, convention)
                row |= {**_counts(entry, result, base), **entry.budget}
                row |= _executed(case, result, base) if convention is EXECUTED else {}
            rows.append(row)
    return rows


def _head(entry: Entry, label: str) -> dict[str, Any]:
    method = entry.method
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in entry.parameters.items()}
    return {
        "kind": "comparison",
        "method": entry.name,
        "label": label,
        "parameters": {name: value for name, value in values.items() if value is not None},
        "schedule": entry.schedule.label() if entry.schedule is not None else None,
        "counts": method.counts if method else "static",
        "method_source": method.source if method else "",
        "reason": entry.reason,
    }


def _counts(entry: Entry, result: Estimate, base: Estimate) -> dict[str, Any]:
    flops = reduced_flops(result)
    row: dict[str, Any] = {"flops": flops}
    if result.convention.counts_macs:
        row["macs"] = flops // 2
    row["flops_share"] = flops / reduced_flops(base)
    figure = find_figure(entry.name, result)
    return row | {
        "published": figure.printed if figure else None,
        "published.text_tokens": figure.workload.text_tokens if figure else None,
        "published.computed": figure.gives if figure else None,
        "published.note": (figure.reason or figure.note) if figure else None,
        "source": figure.source if figure else None,
    }


def _executed(case: Case, result: Estimate, base: Estimate) -> dict[str, Any]:
    """What only a run has: tokens, memory, time, and what choosing the tokens costs."""
    tokens, flops = average_tokens(result.trace), reduced_flops(result)
    free = case.price(free_twin(result.schedule))
    return {
        "average_visual_tokens": tokens,
        "average_visual_tokens_share": tokens / average_tokens(base.trace),
        "total.flops": result.flops,
        "kv_cache_bytes": result.memory.kv_cache_bytes,
        "ttft_s": result.ttft.time_s,
        "ttft_low_s": result.ttft.low_s,
        "ttft_high_s": result.ttft.high_s,
        "bound": result.ttft.bound,
        "time_source": result.ttft.source,
        "speedup": base.ttft_s / result.ttft_s,
        "scoring.flops": flops - reduced_flops(free),
        "scoring.time_s": result.ttft_s - free.ttft_s,
        "scoring.time_share": (result.ttft_s - free.ttft_s) / result.ttft_s,
        "flash_attention": keeps_flash(result),
    }


def keeps_flash(result: Estimate) -> bool:
    """Whether no layer of the LLM has to write its attention matrix."""
    scored = bool(result.trace.scored_layers)
    return result.execution.attention == "sdpa" and not (
        scored and not LAYER_SCORES[result.trace.importance].flash
    )
