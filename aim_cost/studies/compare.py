"""compare(): methods beside each other, counted as each paper counts and as they run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.console import RenderableType
from rich.progress import track

from aim_cost.case import Case, Estimate
from aim_cost.conventions.convention import EXECUTED, Convention, parse_conventions
from aim_cost.errors import ScheduleError
from aim_cost.methods import parse_methods
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.papers.figures import find_figure
from aim_cost.render import Report, Row, console
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.budget import Budget, get_budget, meet
from aim_cost.studies.compare_table import compare_table
from aim_cost.studies.entry import BASELINE, Entry, average_tokens, reduced_flops, resolve


@dataclass(frozen=True)
class Comparison(Report):
    """What ``compare`` returns; ``print`` and notebooks show it as ``aim-cost compare`` does.

    Args: budget, what each method may cost; None where each runs with its own parameters.
    """

    case: Case
    rows: tuple[Row, ...]
    budget: Budget | None = None

    def to_rows(self) -> list[Row]:
        """A flat row for each method and convention, SI units, no reduction first.

        ``flops`` and, where the convention counts them, ``macs`` are of the LLM with what merging
        and scores add where the convention counts those; shares are of no reduction under the same
        convention. Rows of ``executed`` also have tokens, memory, time and what the scoring costs.
        ``published`` is the figure that a paper prints for this schedule, as printed, in units of
        10**12; its text may be another: ``published.computed`` is our count at its own workload.
        ``label`` tells two entries of one method apart. ``reason`` says why a method is missing.
        """
        return list(self.rows)

    def __rich__(self) -> RenderableType:
        return compare_table(self.case, self.rows, self.budget)


def compare(
    case: Case,
    methods: str,
    conventions: str = "all",
    *,
    equal: str | None = None,
    budget: float | None = None,
) -> Comparison:
    """Price methods for one case: FLOPs by convention, tokens, memory, time and scoring.

    Args:
        methods: names with commas between, parameters after colons, schedule files, or ``all``:
            ``aim, fastv:k=3:r=0.75, mine.yaml``.
        conventions: names with commas between, or ``all``.
        equal: ``tokens``, ``flops`` or ``time``: scales one parameter of each method until the
            method costs the same.
        budget: what it may cost: tokens, 10**12 FLOPs or milliseconds; by default what AIM's
            default schedule costs.
    A method that does not fit the case or the budget says why in its row.
    Raises: ScheduleError or SpecError for unknown names and wrong parameters.
    """
    if budget is not None and equal is None:
        raise ScheduleError(
            "--budget", expected="--equal beside it", got="none", fix="E.g. --equal flops."
        )
    requests, counted = parse_methods(methods), parse_conventions(conventions)
    limit = get_budget(case, equal, budget) if equal is not None else None
    shown = console(error=True)
    entries = [
        resolve(case, request) if limit is None else meet(case, request, limit)
        for request in track(
            requests, "methods", console=shown, transient=True, disable=not shown.is_terminal
        )
    ]
    return Comparison(case, tuple(comparison_rows(case, entries, counted)), limit)


def comparison_rows(
    case: Case, entries: Iterable[Entry], conventions: Sequence[Convention]
) -> list[Row]:
    """Rows of no reduction, then of each entry, under each convention: see Comparison.to_rows."""
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


def _head(entry: Entry, label: str) -> Row:
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


def _counts(entry: Entry, result: Estimate, base: Estimate) -> Row:
    flops = reduced_flops(result)
    row: Row = {"flops": flops}
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


def _executed(case: Case, result: Estimate, base: Estimate) -> Row:
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
        **({"notes": list(result.notes)} if result.notes else {}),
    }


def keeps_flash(result: Estimate) -> bool:
    """Whether no layer of the LLM has to write its attention matrix."""
    scored = bool(result.trace.scored_layers)
    return result.execution.attention == "sdpa" and not (
        scored and not LAYER_SCORES[result.trace.importance].flash
    )
