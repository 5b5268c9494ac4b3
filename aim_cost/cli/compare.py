"""aim-cost methods, aim-cost compare."""

from typing import Annotated

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.methods_table import method_rows, method_table, methods_table
from aim_cost.cli.options import (
    BatchOption,
    CaseOptions,
    FormatOption,
    MethodsOptions,
    PromptOptions,
)
from aim_cost.cli.scores_table import score_rows, scores_table
from aim_cost.methods import get_method
from aim_cost.methods.library import METHODS
from aim_cost.render import Format, console, print_object, print_rows
from aim_cost.studies.compare import compare


def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, in full.")] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="What ranks tokens, in place of the methods.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """List the published methods: where they act, parameters, what ranks the tokens."""
    if scores:
        if form is Format.table:
            console().print(scores_table())
        else:
            print_rows(score_rows(), form)
        return
    chosen = [get_method(name)] if name else list(METHODS.values())
    if form is not Format.table:
        rows = method_rows(chosen)
        print_object(rows[0], form) if name else print_rows(rows, form)
        return
    console().print(method_table(chosen[0]) if name else methods_table(chosen))


@grouped
def compare_methods(
    *,
    methods: MethodsOptions,
    options: CaseOptions,
    prompt: PromptOptions,
    batch: BatchOption = 1,
    form: FormatOption = Format.table,
) -> None:
    """Compare methods: FLOPs by convention, tokens, memory, time, scoring.

    Without --frames, --image-tokens and --image it is a video of 32 frames.
    """
    case = options.case(prompt.workload(32, batch))
    found = compare(
        case, methods.methods, methods.conventions, equal=methods.equal, budget=methods.budget
    )
    if form is not Format.table:
        print_rows(found.to_rows(), form)
        return
    console().print(found)
