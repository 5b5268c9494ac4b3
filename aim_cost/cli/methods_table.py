"""The tables of ``aim-cost methods``: all methods, or one in full."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType

from aim_cost.methods import Method
from aim_cost.methods.method import COUNT_MARKS, COUNTS
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.papers.figures import published_figures
from aim_cost.render import Row, table


def method_rows(methods: Sequence[Method]) -> list[Row]:
    """One row a method, for programs."""
    figures = published_figures()
    return [
        {
            "name": method.name,
            "title": method.title,
            "arxiv": method.arxiv,
            "where": method.where,
            "parameters": {p.name: p.shown() for p in method.parameters},
            "scale": method.scale.name if method.scale else None,
            "scoring": list(method.scoring),
            "runs": method.runs,
            "why_not_run": method.why_not_run,
            "flash_attention": _flash(method),
            "counts": method.counts,
            "verified": method.verified,
            "video": method.video,
            "note": method.note,
            "published": [_figure(f) for f in figures if f.method == method.name],
        }
        for method in methods
    ]


def methods_table(methods: Sequence[Method]) -> RenderableType:
    """A line or two a method."""
    lines = [
        (
            f"{method.name}{COUNT_MARKS[method.counts]}{' ‡' if method.runs else ''}",
            method.arxiv or "-",
            method.where,
            ", ".join(f"{p.name} {p.shown()}" for p in method.parameters if p.default is not None),
            ", ".join(method.scoring) + ("" if _flash(method) else " †"),
        )
        for method in methods
    ]
    note = (
        "‡: aim_runtime runs it; the others are priced. "
        "acts: before the LLM, inside it, both, or in the vision tower. Parameters with their "
        "defaults; 16 of 32: layer 16 of an LLM of 32 layers, scaled to others. "
        f"†: flash attention is off where it scores. * {COUNTS['mean']}. ** {COUNTS['assumed']}. "
        "More: aim-cost methods NAME."
    )
    columns = ("method", "arXiv", "acts", "parameters", "ranks tokens by")
    result = table("Methods of visual-token reduction", columns, lines, note)
    for column in result.columns:
        column.justify = "left"
    words = [word for line in lines for word in line[-1].split()]
    result.columns[-1].width = max(map(len, words))  # a word stays whole
    result.columns[-2].width = 11  # so that the table has 80 columns
    return result


def method_table(method: Method) -> RenderableType:
    """One method: parameters, scores, what is left out, and what papers print for it."""
    lines = [
        (p.name, p.shown(), p.meaning + (", scaled by --equal" if p.scales else ""))
        for p in method.parameters
    ]
    title = f"{method.title}: acts {_WHERE[method.where]}; {method.source}"
    parameters = table(title, ("parameter", "default", "meaning"), lines)
    for column in parameters.columns:
        column.justify = "left"
    text = [f"Ranks tokens by {_scores(method)}.", f"Counts: {COUNTS[method.counts]}."]
    refused = f"aim_runtime prices it and does not run it: {method.why_not_run}."
    text += ["aim_runtime runs it." if method.runs else refused]
    text += [method.note] if method.note else []
    found = [figure for figure in published_figures() if figure.method == method.name]
    if not found:
        return Group(parameters, *text)
    figures = [
        (f.stated, f.convention, f.printed, f.gives, f.source.partition(",")[0]) for f in found
    ]
    columns = ("parameters", "convention", "printed", "ours", "source")
    published = table("Printed FLOPs or MACs, 10**12, and ours", columns, figures)
    published.columns[0].no_wrap = False
    return Group(parameters, *text, "", published)


_WHERE = {
    "before": "before the LLM",
    "inside": "inside the LLM",
    "both": "before the LLM and inside it",
    "tower": "in the vision tower",
}


def _scores(method: Method) -> str:
    known = {**VISUAL_SCORES, **LAYER_SCORES}
    said = [f"{n} ({known[n].summary})" if n in known else n for n in method.scoring]
    return " and ".join(said) + ("" if _flash(method) else ", for which flash attention goes off")


def _flash(method: Method) -> bool:
    return all(LAYER_SCORES[name].flash for name in method.scoring if name in LAYER_SCORES)


def _figure(figure: Any) -> dict[str, Any]:
    return {
        "schedule": figure.schedule.label(),
        "convention": figure.convention,
        "model": figure.model,
        "printed": figure.printed,
        "computed": figure.gives,
        "source": figure.source,
        "note": figure.reason or figure.note,
    }
