"""aim-runtime accuracy: the share of right answers under schedules."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import FormatOption, PartOptions, SchedulesOption
from aim_cost.render import Format, console, print_rows, table
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import mega
from aim_runtime.cli.options import with_baseline

if TYPE_CHECKING:
    from torch import Tensor

    from aim_runtime.answers.accuracy import Accuracy, Interval


@grouped
def accuracy(
    *,
    model: Annotated[
        str, typer.Option(help="tiny, tiny-36, or a folder of aim-runtime tiny train.")
    ] = "tiny",
    parts: PartOptions,
    schedule: SchedulesOption = None,
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
    from aim_cost.checks import whole
    from aim_cost.models.model import ModelSpec
    from aim_cost.models.workload import Workload
    from aim_runtime.answers.accuracy import ALL, exam_schedules, measure_accuracy
    from aim_runtime.answers.accuracy_file import AccuracyFile, ExamKey, exam_row
    from aim_runtime.errors import MeasurementError
    from aim_runtime.patching.patch import patched
    from aim_runtime.tiny.checkpoint import SHIPPED, load_tiny
    from aim_runtime.tiny.exam import draw_exam, encoded_by, right_answers
    from aim_runtime.tiny.model import frame_tokens

    whole(questions, "--questions", MeasurementError)
    tiny = load_tiny(SHIPPED.get(model, Path(model)))
    exam = draw_exam(tiny, split, questions, frames=frames, seed=seed)
    asked = with_baseline(parts.all(schedule))
    chosen = asked or exam_schedules()
    key = ExamKey(model, split, frames, seed)
    file = AccuracyFile(out, key, resume=resume) if out is not None else None

    def answers(schedule: Schedule) -> "Tensor":
        merge = schedule.vision_merge
        seen = exam if merge is None else encoded_by(tiny, exam, merge)
        with patched(tiny, schedule):
            return right_answers(tiny, seen)

    text = exam.input_ids.shape[1] - (frames * frame_tokens(tiny) + 1)
    lines = measure_accuracy(
        answers,
        exam.kinds,
        chosen,
        ModelSpec.from_hf_config(tiny.config.to_dict(), name="tiny"),
        Workload(text_tokens=text, frames=frames),
        draws=draws,
        done=file.earlier if file else (),
        keep=file.save if file else lambda lines: None,
    )
    if form is not Format.table:
        print_rows([exam_row(key, line) for line in lines], form)
        return
    console().print(_table([line for line in lines if line.kind == ALL], questions))


def _table(lines: "Sequence[Accuracy]", questions: int) -> RenderableType:
    cells = [
        (
            line.schedule.label(),
            f"{mega(line.llm_flops):.0f}",
            f"{100 * line.share.value:.1f}",
            f"{100 * line.share.low:.0f} - {100 * line.share.high:.0f}",
            _points(line.difference),
            _points(line.random_difference),
        )
        for line in lines
    ]
    columns = ("schedule", "MFLOPs", "right", "95 %", "to none", "to random")
    note = (
        f"{questions} questions; percent, and points of difference on the same questions. "
        "MFLOPs of the LLM with scoring, one prompt. * the 95 % interval leaves 0 out."
    )
    return table("Accuracy under schedules", columns, cells, note)


def _points(difference: "Interval | None") -> str:
    if difference is None:
        return "-"
    return f"{100 * difference.value:+.1f}{'*' if difference.leaves_out_zero else ' '}"
