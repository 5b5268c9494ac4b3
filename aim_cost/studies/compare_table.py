"""The tables of a comparison, one for each question, to paste into a paper."""

from collections.abc import Sequence
from textwrap import fill

from rich.console import Group, RenderableType

from aim_cost.case import Case
from aim_cost.conventions.convention import EXECUTED, get_convention
from aim_cost.methods.method import COUNT_MARKS, COUNTS
from aim_cost.methods.parameter import show_value
from aim_cost.render import Row, table
from aim_cost.studies.budget import Budget
from aim_cost.units import mega, milli, tera

_FLASH = "†"
"""Beside what scoring costs, where it needs the attention matrix of a layer."""


def compare_table(case: Case, rows: Sequence[Row], budget: Budget | None) -> RenderableType:
    """Cost as executed, FLOPs by convention, what papers print, and the parameters."""
    priced = [row for row in rows if not row["reason"]]
    executed = [row for row in priced if row["convention"] == EXECUTED.name]
    parts: list[RenderableType] = []
    if executed:
        parts += [_executed_table(case, executed, budget), ""]
    if len(executed) < len(priced):
        parts += [_flops_table(priced), ""]
    if any(row["published"] for row in priced):
        parts += [_published_table(priced), ""]
    return Group(*parts, *_parameters(rows), "", *_legend(rows), *case.price().notes)


def _executed_table(case: Case, rows: Sequence[Row], budget: Budget | None) -> RenderableType:
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
            f"{row['average_visual_tokens']:.0f}",
            _share(row, budget),
            f"{tera(row['flops']):.2f}",
            _scoring(row),
            f"{mega(row['kv_cache_bytes']):.0f}",
            _milli(row["ttft_s"]),
            _band(row),
        )
        for row in rows
    ]
    met = (
        f" used: share of {budget.shown()}; below 100 %, the parameter's next step is above it."
        if budget
        else ""
    )
    kept = "" if budget else " kept: of the tokens."
    note = (
        f"tokens: visual, mean of the layers.{kept}{met} TFLOPs: LLM, merging and scores as "
        "executed, without the vision tower. score: share of the TTFT that goes when the same "
        "counts are chosen at no cost. ms: TTFT, vision tower included; source: "
        f"{rows[0]['time_source']}. {_FLASH}: flash attention is off in the layers that score."
    )
    return table(title, columns, lines, note)


def _flops_table(rows: Sequence[Row]) -> RenderableType:
    """A row for each method, a column for each convention."""
    conventions = list(dict.fromkeys(row["convention"] for row in rows))
    units = ["TMACs" if get_convention(name).counts_macs else "TFLOPs" for name in conventions]
    cells = {(row["label"], row["convention"]): _count(row) for row in rows}
    names = {row["label"]: _name(row) for row in rows}
    lines = [
        (name, *(cells[label, convention] for convention in conventions))
        for label, name in names.items()
    ]
    columns = ("", *(f"{n}\n{unit}" for n, unit in zip(conventions, units, strict=True)))
    note = (
        "Second figures: percent of no reduction under the same convention. 1 MAC = 2 FLOPs. "
        "executed alone counts merging and scores."
    )
    return table("The LLM's prefill as each convention counts it", columns, lines, note)


def _published_table(rows: Sequence[Row]) -> RenderableType:
    found = [row for row in rows if row["published"]]
    notes = list(dict.fromkeys(row["published.note"] for row in found if row["published.note"]))
    lines = [
        (
            _name(row),
            row["convention"],
            row["published"],
            row["published.computed"],
            str(row["published.text_tokens"]),
            _source(row, notes),
        )
        for row in found
    ]
    said = "".join(f" [{i}] {note}." for i, note in enumerate(notes, 1))
    note = f"text: text tokens in the paper's figure and in ours beside it.{said}"
    columns = ("", "convention", "printed", "ours", "text", "source")
    result = table("What papers print for these parameters, 10**12", columns, lines, note)
    result.columns[-1].justify = "left"
    return result


def _source(row: Row, notes: list[str]) -> str:
    """``HoliTom 2505.21334 [1]``."""
    paper = " ".join(row["source"].split(", ")[:2]).replace("arXiv ", "")
    note = row["published.note"]
    return f"{paper} [{notes.index(note) + 1}]" if note else paper


def _parameters(rows: Sequence[Row]) -> list[str]:
    """A line for each method: parameters, or why it is missing."""
    entries = {row["label"]: row for row in rows if row["method"] != "none"}
    lines = []
    for label, row in entries.items():
        values = ", ".join(f"{k} {_value(v)}" for k, v in row["parameters"].items())
        text = f"{label}: {row['reason'] or values or row['schedule']}"
        lines.append(fill(text, 80, subsequent_indent="  ", break_long_words=False))
    return lines


def _legend(rows: Sequence[Row]) -> list[str]:
    kinds = dict.fromkeys(row["counts"] for row in rows if not row["reason"])
    text = " ".join(f"{COUNT_MARKS[k].strip()} {COUNTS[k]}." for k in kinds if COUNT_MARKS[k])
    return [text] if text else []


def _name(row: Row) -> str:
    return f"{row['label']}{COUNT_MARKS[row['counts']]}"


def _value(value: object) -> str:
    return show_value(tuple(value) if isinstance(value, list) else value)  # type: ignore[arg-type]


def _count(row: Row) -> str:
    count = tera(row["macs"] if "macs" in row else row["flops"])
    shown = f"{count:.2f}" if count < 1000 else f"{count:.0f}"
    return f"{shown} {100 * row['flops_share']:3.0f}"


def _share(row: Row, budget: Budget | None) -> str:
    if budget is None:
        return _percent(row["average_visual_tokens_share"])
    if "budget.share" not in row:
        return ""
    return f"{100 * row['budget.share']:.1f}".removesuffix(".0") + " %"


def _scoring(row: Row) -> str:
    if row["method"] == "none":
        return ""
    return _percent(row["scoring.time_share"]) + ("" if row["flash_attention"] else _FLASH)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _milli(seconds: float) -> str:
    value = milli(seconds)
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _band(row: Row) -> str:
    low, high = milli(row["ttft_low_s"]), row["ttft_high_s"]
    if high is None:
        return f"over {low:.0f}"
    digits = 0 if milli(high) >= 100 else 1
    return f"{low:.{digits}f}-{milli(high):.{digits}f}"
