"""An efficiency table for a terminal, for Markdown and for LaTeX."""

from collections.abc import Sequence

from rich.console import Group, RenderableType

from aim_cost.methods.method import COUNT_MARKS, COUNTS
from aim_cost.render import latex_table, markdown_table, table, wrapped
from aim_runtime.validation.efficiency import Efficiency
from aim_runtime.validation.efficiency_columns import (
    MISSING,
    Column,
    Source,
    flops_columns,
    memory_columns,
    time_columns,
)
from aim_runtime.validation.efficiency_run import EfficiencyTable

_NOT_RUN = "°"
"""The mark of a method whose figures are predicted, since it did not run."""

_DIFFERS = "≠"
"""The mark of a method that ran otherwise than predicted."""


def efficiency_report(result: EfficiencyTable) -> RenderableType:
    """Three tables of at most 80 columns (tokens, FLOPs, time), and the notes below."""
    names = _names(result)
    parts = (
        ("Visual tokens and memory", memory_columns(result)),
        ("FLOPs of a prefill", flops_columns(result)),
        ("Time", time_columns(result)),
    )
    shown: list[RenderableType] = [wrapped(_title(result)), ""]
    for title, columns in parts:
        lines = list(zip(names, *(column.cells for column in columns), strict=True))
        if columns[0].source is Source.MEASURED:  # a line of dashes says nothing
            lines = [line for line in lines if set(line[1:]) != {MISSING}]
        made = table(title, ("", *(column.head for column in columns)), lines)
        for column in made.columns:  # the name of a method wraps before a figure is cut short
            column.no_wrap, column.overflow = column is not made.columns[0], "fold"
        shown += [made, ""]
    return Group(*shown, *map(wrapped, _notes(result)))


def efficiency_markdown(result: EfficiencyTable) -> str:
    """One table with all columns, its title above and the notes below."""
    heads, lines = _whole(result)
    return markdown_table(_title(result), heads, lines, _notes(result))


def efficiency_latex(result: EfficiencyTable) -> str:
    """The same in LaTeX; it needs booktabs alone."""
    heads, lines = _whole(result)
    return latex_table(_title(result), heads, lines, _notes(result), label="tab:efficiency")


def _whole(result: EfficiencyTable) -> tuple[list[str], list[tuple[str, ...]]]:
    """The heads of all columns, and the lines."""
    columns = _columns(result)
    cells = (column.cells for column in columns)
    lines = list(zip(_names(result), *cells, strict=True))
    return ["", *(column.head for column in columns)], lines


def _columns(result: EfficiencyTable) -> list[Column]:
    return [*memory_columns(result), *flops_columns(result), *time_columns(result)]


def _names(result: EfficiencyTable) -> list[str]:
    return [
        row.label
        + COUNT_MARKS[row.executed.counts]
        + (_NOT_RUN if _is_predicted(row) else _DIFFERS if row.differences else "")
        for row in result.rows
    ]


def _is_predicted(row: Efficiency) -> bool:
    return row.predicted is not None and row.ran is None


def _title(result: EfficiencyTable) -> str:
    case, where = result.case, result.environment
    text, vision, prompts = case.model.text, case.model.vision, case.workload
    device = (where.cpu or "cpu") if result.device == "cpu" else result.device
    return (
        f"{case.model.name} ({text.num_hidden_layers} decoder layers of width {text.hidden_size}, "
        f"{vision.num_hidden_layers} vision layers of width {vision.hidden_size}), "
        f"{prompts.label()} + {prompts.text_tokens} text tokens, batch {prompts.batch}; "
        f"{device}, {case.execution.dtype}, torch {where.torch}, "
        f"transformers {where.transformers}"
    )


def _notes(result: EfficiencyTable) -> list[str]:
    """Sentences on what the columns mean, where they come from, and what is missing and why."""
    rows = result.rows
    marks = dict.fromkeys(row.executed.counts for row in rows if row.predicted)
    lines = [
        *(f"{source}: {heads}." for source, heads in _sources(result).items()),
        "tokens: visual ones, the mean over the layers of the LLM and those entering it. LLM: with "
        "merging and scores; all: vision tower included.",
        _equality(rows),
        _clock(result),
        *([] if _has_peak(result) else ["peak: torch knows it on a GPU alone."]),
        *([f"Each method has at most {result.budget.shown()}."] if result.budget else []),
        *(f"{COUNT_MARKS[kind]} {COUNTS[kind]}." for kind in marks if COUNT_MARKS[kind]),
    ]
    if any(map(_is_predicted, rows)):
        lines.append(f"{_NOT_RUN} did not run here: tokens, FLOPs and KV are predicted.")
    lines += [f"{names}: {reason.rstrip('.')}." for reason, names in _reasons(rows).items()]
    lines += _parameters(rows)
    lines += [f"Differs: {row.label}: {text}" for row in rows for text in row.differences]
    return [*lines, *_interrupted(result), *result.case.price().notes]


def _parameters(rows: Sequence[Efficiency]) -> list[str]:
    """A sentence with the parameters of every method that is priced."""
    said = [(row.label, row.executed.entry.values_shown()) for row in rows[1:] if row.predicted]
    listed = "; ".join(f"{label} {values}" for label, values in said)
    return [f"Parameters: {listed}."] if said else []


def _equality(rows: Sequence[Efficiency]) -> str:
    """In how many rows the prediction was right."""
    ran = [row for row in rows if row.is_as_predicted is not None]
    equal = sum(not row.differences for row in ran)
    other = "" if equal == len(ran) else f"; not in those with {_DIFFERS}"
    return (
        "FLOPs of each phase (torch.utils.flop_counter) and tokens of each layer that ran are the "
        f"predicted ones, to the integer, in {equal} of {len(ran)} rows{other}."
    )


def _sources(result: EfficiencyTable) -> dict[Source, str]:
    """The heads of the columns of each source."""
    found: dict[Source, list[str]] = {}
    for column in _columns(result):
        found.setdefault(column.source, []).append(" ".join(column.head.split("\n")))
    return {source: ", ".join(heads) for source, heads in found.items()}


def _clock(result: EfficiencyTable) -> str:
    """How times were measured and predicted."""
    clock = "the monotonic clock" if result.device == "cpu" else "CUDA events"
    text = (
        f"Times: medians of {result.repeats} rounds in which all take turns, by {clock}; prefill: "
        "from pixels to the first token"
    )
    if result.new_tokens > 1:
        text += (
            f"; TPOT: mean of the {result.new_tokens - 1} tokens after it; E2E: end to end, "
            f"prefill and all {result.new_tokens} tokens"
        )
    text += ". Speed-ups are over none."
    if result.predicts_time:
        source = result.case.price().ttft.source
        text += f" Predicted for {result.case.device.name} by {source.phrase}."
    return text


def _has_peak(result: EfficiencyTable) -> bool:
    return any(row.ran is not None and row.ran.peak_memory_bytes for row in result.rows)


def _reasons(rows: Sequence[Efficiency]) -> dict[str, str]:
    """Why methods are missing or did not run: the labels under each reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            found.setdefault(row.reason, []).append(row.label)
    return {reason: ", ".join(labels) for reason, labels in found.items()}


def _interrupted(result: EfficiencyTable) -> list[str]:
    """What an interrupt left undone."""
    short = [
        f"{row.label} {row.ran.repeats}"
        for row in result.rows
        if row.ran is not None and row.ran.repeats < result.repeats
    ]
    lines = [f"Interrupted, rounds so far: {', '.join(short)}."] if short else []
    return lines + ([f"Not timed yet: {', '.join(result.waiting)}."] if result.waiting else [])
