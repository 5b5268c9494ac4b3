"""aim-runtime accuracy: the share of right answers under schedules."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aim_cost.case import Case
from aim_cost.checks import numbers
from aim_cost.cli.groups import grouped
from aim_cost.cli.options import AllPartOptions, FormatOption, SchedulesOption
from aim_cost.methods import parse_methods
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.render import Format, console, print_rows
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.budget import KINDS
from aim_runtime.cli.options import with_baseline

if TYPE_CHECKING:
    from torch import Tensor

    from aim_runtime.answers.accuracy import Asked
    from aim_runtime.answers.at_budgets import Missed


@dataclass(frozen=True)
class MethodOptions:
    """Published methods, in place of schedules."""

    methods: Annotated[
        str | None,
        typer.Option(
            help="Names with commas, fastv:k=3, a file; all: those not named. At equal budgets.",
            show_default=False,
        ),
    ] = None
    equal: Annotated[
        str, typer.Option(help=f"What each method is given equally: {', '.join(KINDS)}.")
    ] = "tokens"
    budgets: Annotated[
        str, typer.Option(help="Shares of the visual tokens whose keeping costs as much.")
    ] = "0.5,0.25,0.125"

    def asked(self, case: Case) -> "tuple[list[Asked], list[Missed]]":
        """No reduction and each method at each budget. Raises: ScheduleError, InputError."""
        from aim_runtime.answers.accuracy import Asked
        from aim_runtime.answers.at_budgets import at_budgets
        from aim_runtime.errors import InputError

        shares = numbers(self.budgets, "--budgets", "shares, e.g. 0.5,0.25", InputError)
        assert self.methods is not None
        asked, missed = at_budgets(case, parse_methods(self.methods), self.equal, shares)
        return [Asked(Schedule()), *asked], missed


@grouped
def accuracy(
    *,
    model: Annotated[
        str, typer.Option(help="tiny, tiny-36, or a folder of aim-runtime tiny train.")
    ] = "tiny",
    parts: AllPartOptions,
    schedule: SchedulesOption = None,
    methods: MethodOptions,
    questions: Annotated[int, typer.Option(help="About as many clips, the kinds in turn.")] = 1000,
    frames: Annotated[int, typer.Option(help="Of each clip.")] = 8,
    split: Annotated[str, typer.Option(help="test or validation digits.")] = "test",
    seed: Annotated[int, typer.Option(help="Of the exam.")] = 0,
    draws: Annotated[int, typer.Option(help="Of each random baseline.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write rows to this .json or .csv.")] = None,
    resume: Annotated[bool, typer.Option(help="Keep the rows of --out (.json).")] = False,
    form: FormatOption = Format.table,
) -> None:
    """Answer questions under schedules: 45 of them when none is named. Tokens really leave."""
    from aim_runtime.answers.accuracy import Asked, exam_schedules, measure_accuracy
    from aim_runtime.answers.accuracy_file import AccuracyFile, ExamKey, exam_row
    from aim_runtime.cli.accuracy_tables import methods_table, schedules_table
    from aim_runtime.errors import InputError
    from aim_runtime.tiny.checkpoint import SHIPPED, load_tiny
    from aim_runtime.tiny.exam import Examiner
    from aim_runtime.tiny.prompts import TEXT_TOKENS

    named = parts.all(schedule)
    if named and methods.methods is not None:
        raise InputError(
            "--methods",
            expected="no schedule beside it",
            got=", ".join(one.label() for one in named),
            fix="Give one of the two.",
        )
    tiny = load_tiny(SHIPPED.get(model, Path(model)))
    examiner = Examiner(tiny, split, questions, frames, seed)
    spec = ModelSpec.from_hf_config(tiny.config.to_dict(), name="tiny")
    workload = Workload(text_tokens=TEXT_TOKENS, frames=frames)
    missed: list[Missed] = []
    if methods.methods is not None:
        case = Case(spec, workload, "cpu-generic", Execution(dtype="float32"))
        asked, missed = methods.asked(case)
    else:
        asked = [Asked(one) for one in with_baseline(named) or exam_schedules()]
    key = ExamKey(model, split, frames, seed)
    file = AccuracyFile(out, key, resume=resume) if out is not None else None

    def answers(schedule: Schedule) -> "tuple[Tensor, float]":
        if file is not None:
            file.require_same_software()
        return examiner.answered(schedule)

    lines = measure_accuracy(
        answers,
        examiner.kinds,
        asked,
        spec,
        workload,
        draws=draws,
        done=file.earlier if file else (),
        keep=file.save if file else lambda lines: None,
    )
    if form is not Format.table:
        print_rows([exam_row(key, line) for line in lines], form)
        return
    if methods.methods is not None:
        console().print(methods_table(lines, missed, questions))
        return
    console().print(schedules_table(lines, questions))
