"""The tables of a comparison, one for each question, to paste into a paper."""

from collections.abc import Sequence
from textwrap import fill

from rich.console import Group, RenderableType

from aim_cost.case import Case
from aim_cost.methods.method import COUNT_MARKS, COUNTS
from aim_cost.papers.figures import Figure
from aim_cost.render import table
from aim_cost.studies.budget import Budget
from aim_cost.studies.compared import Compared, Counted, Executed
from aim_cost.timing.prefill_time import PhaseTime
from aim_cost.units import mega, milli, tera

_FLASH = "†"
"""The mark of scores that need the attention matrix of a layer."""


def compare_table(case: Case, rows: Sequence[Compared], budget: Budget | None) -> RenderableType:
    """Cost as executed, FLOPs by convention, what papers print, and the parameters."""
    priced = [(row, row.counted) for row in rows if row.counted]
    executed = [(row, found, row.executed) for row, found in priced if row.executed]
    printed = [(row, found.figure) for row, found in priced if found.figure]
    parts: list[RenderableType] = []
    if executed:
        parts += [_executed_table(case, executed, budget), ""]
    if len(executed) < len(priced):
        parts += [_flops_table(priced), ""]
    if printed:
        parts += [_published_table(printed), ""]
    return Group(*parts, *_parameters(rows), "", *_legend(rows), *case.price().notes)


def _executed_table(
    case: Case, rows: Sequence[tuple[Compared, Counted, Executed]], budget: Budget | None
) -> RenderableType:
    workload = case.workload
    title = (
        f"{case.model.name} on {case.device.name}, {case.execution.dtype}\n"
        f"{workload.label()} + {workload.text_tokens} text tokens, batch {workload.batch}, "
        f"execution {case.execution.mode}"
    )
    share = "kept" if budget is None else "used"
    columns = ("", "tokens", share, "TFLOPs", "score", "KV MB", "ms", "90 % band")
    lines = [
        (
            _name(row),
            f"{run.tokens:.0f}",
            _share(row, run, budget),
            f"{tera(counted.flops):.2f}",
            "" if row.is_baseline else _scoring(row, run),
            f"{mega(run.result.memory.kv_cache_bytes):.0f}",
            _milli(run.result.ttft_s),
            _band(run.result.ttft),
        )
        for row, counted, run in rows
    ]
    met = (
        f" used: share of {budget.shown()}; below 100 %, the parameter's next step is above it."
        if budget
        else ""
    )
    kept = "" if budget else " kept: of the tokens."
    source = rows[0][2].result.ttft.source
    without = any(_loses_flash(row, run) for row, _, run in rows)
    marked = f" {_FLASH}: flash attention is off in the layers that score." if without else ""
    note = (
        f"tokens: visual, mean of the layers.{kept}{met} TFLOPs: LLM, merging and scores as "
        "executed, without the vision tower. score: share of the TTFT that goes when the same "
        "counts are chosen at no cost. ms: TTFT, vision tower included; source: "
        f"{source}.{marked}"
    )
    return table(title, columns, lines, note)


def _flops_table(rows: Sequence[tuple[Compared, Counted]]) -> RenderableType:
    """A row for each method, a column for each convention."""
    conventions = list(dict.fromkeys(row.convention for row, _ in rows))
    cells = {(row.label, row.convention): _count(counted) for row, counted in rows}
    names = {row.label: _name(row) for row, _ in rows}
    lines = [
        (name, *(cells[label, convention] for convention in conventions))
        for label, name in names.items()
    ]
    units = [f"{one.name}\n{'TMACs' if one.counts_macs else 'TFLOPs'}" for one in conventions]
    note = (
        "Second figures: percent of no reduction under the same convention. 1 MAC = 2 FLOPs. "
        "executed alone counts merging and scores."
    )
    return table("The LLM's prefill as each convention counts it", ("", *units), lines, note)


def _published_table(found: Sequence[tuple[Compared, Figure]]) -> RenderableType:
    notes = list(dict.fromkeys(figure.remark for _, figure in found if figure.remark))
    lines = [
        (
            _name(row),
            row.convention.name,
            figure.printed,
            figure.gives,
            str(figure.workload.text_tokens),
            _source(figure, notes),
        )
        for row, figure in found
    ]
    said = "".join(f" [{i}] {note}." for i, note in enumerate(notes, 1))
    note = f"text: text tokens in the paper's figure and in ours beside it.{said}"
    columns = ("", "convention", "printed", "ours", "text", "source")
    result = table("What papers print for these parameters, 10**12", columns, lines, note)
    result.columns[-1].justify = "left"
    return result


def _source(figure: Figure, notes: list[str]) -> str:
    """``HoliTom 2505.21334 [1]``."""
    paper = " ".join(figure.source.split(", ")[:2]).replace("arXiv ", "")
    return f"{paper} [{notes.index(figure.remark) + 1}]" if figure.remark else paper


def _parameters(rows: Sequence[Compared]) -> list[str]:
    """A line for each method: parameters, or why it is missing."""
    entries = {row.label: row.entry for row in rows if not row.is_baseline}
    return [
        fill(
            f"{label}: {entry.reason or entry.values_shown()}",
            80,
            subsequent_indent="  ",
            break_long_words=False,
        )
        for label, entry in entries.items()
    ]


def _legend(rows: Sequence[Compared]) -> list[str]:
    kinds = dict.fromkeys(row.counts for row in rows if row.counted)
    text = " ".join(f"{COUNT_MARKS[k].strip()} {COUNTS[k]}." for k in kinds if COUNT_MARKS[k])
    return [text] if text else []


def _name(row: Compared) -> str:
    return f"{row.label}{COUNT_MARKS[row.counts]}"


def _count(counted: Counted) -> str:
    count = tera(counted.flops if counted.macs is None else counted.macs)
    shown = f"{count:.2f}" if count < 1000 else f"{count:.0f}"
    return f"{shown} {100 * counted.flops_share:3.0f}"


def _share(row: Compared, run: Executed, budget: Budget | None) -> str:
    if budget is None:
        return _percent(run.tokens_share)
    if row.entry.met is None:
        return ""
    return f"{100 * row.entry.met.share:.1f}".removesuffix(".0") + " %"


def _loses_flash(row: Compared, run: Executed) -> bool:
    return not (row.is_baseline or run.keeps_flash)


def _scoring(row: Compared, run: Executed) -> str:
    return _percent(run.scoring_share) + (_FLASH if _loses_flash(row, run) else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _milli(seconds: float) -> str:
    value = milli(seconds)
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _band(ttft: PhaseTime) -> str:
    low = milli(ttft.low_s)
    if ttft.high_s is None:
        return f"over {low:.0f}"
    digits = 0 if milli(ttft.high_s) >= 100 else 1
    return f"{low:.{digits}f}-{milli(ttft.high_s):.{digits}f}"
