"""aim-runtime accuracy: what a schedule costs in right answers."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aim_cost.cli.groups import grouped
from aim_cost.cli.options import FormatOption, PartOptions, SchedulesOption
from aim_cost.files import write_atomically
from aim_cost.render import Format, Row, console, print_rows, table, to_csv
from aim_cost.schedules.schedule import Schedule
from aim_cost.text_files.json_text import json_tree
from aim_cost.text_files.text import text_of
from aim_cost.units import mega
from aim_runtime.cli.options import with_baseline
from aim_runtime.errors import MeasurementError


@grouped
def accuracy(
    *,
    model: Annotated[
        str, typer.Option(help="tiny, or a folder of aim-runtime tiny train.")
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
    from aim_runtime.answers.accuracy import exam_schedules, measure_accuracy
    from aim_runtime.patching.patch import patched
    from aim_runtime.tiny.checkpoint import SHIPPED, load_tiny
    from aim_runtime.tiny.exam import draw_exam, encoded_by, right_answers

    whole(questions, "--questions", MeasurementError)
    tiny = load_tiny(SHIPPED if model == "tiny" else Path(model))
    exam = draw_exam(tiny, split, questions, frames=frames, seed=seed)
    asked = with_baseline(parts.all(schedule))
    chosen = asked or exam_schedules()
    facts = {"model": model, "split": split, "frames": frames, "seed": seed}

    def answers(schedule: Schedule) -> Any:
        merge = schedule.vision_merge
        seen = exam if merge is None else encoded_by(tiny, exam, merge)
        with patched(tiny, schedule):
            return right_answers(tiny, seen)

    others, done = _earlier(out, facts, len(exam.kinds)) if out and resume else ([], [])

    def keep(rows: Any) -> None:
        if out is not None:
            _write(out, [*others, *({**facts, **row} for row in rows)])

    text = exam.input_ids.shape[1] - exam.visual_tokens
    rows = measure_accuracy(
        answers,
        exam.kinds,
        chosen,
        ModelSpec.from_hf_config(tiny.config.to_dict(), name="tiny"),
        Workload(text_tokens=text, frames=frames),
        draws=draws,
        done=done,
        keep=keep,
    )
    rows = [{**facts, **row} for row in rows]
    if form is not Format.table:
        print_rows(rows, form)
        return
    console().print(_table(rows, questions))


def _table(rows: list[dict[str, Any]], questions: int) -> Any:
    lines = [
        (
            row["schedule"],
            f"{mega(row['llm_flops']):.0f}",
            f"{100 * row['accuracy']:.1f}",
            f"{100 * row['ci_low']:.0f} - {100 * row['ci_high']:.0f}",
            _points(row, "difference"),
            _points(row, "random_difference"),
        )
        for row in rows
        if row["kind"] == "all"
    ]
    columns = ("schedule", "MFLOPs", "right", "95 %", "to none", "to random")
    note = (
        f"{questions} questions; percent, and points of difference on the same questions. "
        "MFLOPs of the LLM with scoring, one prompt. * the 95 % interval leaves 0 out."
    )
    return table("Accuracy under schedules", columns, lines, note)


def _points(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "-"
    clear = row[f"{name}_low"] > 0 or row[f"{name}_high"] < 0
    return f"{100 * row[name]:+.1f}{'*' if clear else ' '}"


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = to_csv(rows) if path.suffix == ".csv" else json.dumps({"rows": rows}, indent=1)
    write_atomically(path, (text + "\n").encode())


def _earlier(path: Path, facts: Row, questions: int) -> tuple[list[Row], list[Row]]:
    """The rows of other exams in a file, and those of this one without ``facts``, which they share.

    Raises: MeasurementError for another file, and for rows of this exam over other questions.
    """
    if not path.exists():
        return [], []
    try:
        rows = json_tree(text_of(path))["rows"]
        for row in rows:  # labels as they are written today: rows are told apart by them
            row["schedule"] = Schedule.read(row["schedule"]).label()
        same = [row for row in rows if all(row[key] == value for key, value in facts.items())]
        counts = {row["n"] for row in same if row["kind"] == "all"} - {questions}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MeasurementError(
            str(path),
            expected="JSON rows that accuracy wrote",
            got=" ".join(str(error).split()),
            fix="Give another --out, or leave --resume out.",
        ) from error
    if counts:
        raise MeasurementError(
            str(path),
            expected=f"rows over {questions} questions, as asked for",
            got=f"rows over {min(counts)}",
            fix="Give the same --questions, or another --out.",
        )
    others = [row for row in rows if row not in same]
    return others, [{key: value for key, value in row.items() if key not in facts} for row in same]
