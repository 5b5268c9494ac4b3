"""docs/schedules.md: its words are those of the language, and its examples run."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from aim_cost.cli.main import app
from aim_cost.errors import ScheduleError
from aim_cost.schedules.language import OneOf
from aim_cost.schedules.schedule import PARTS, Schedule

TEXT = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def rows(text):
    """The cells of each row of the tables in a text, without their headings."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def words_of(part):
    """The rows that the page has to have for a part."""
    yield from ([f"`{amount.form}`", amount.meaning] for amount in part.AMOUNTS)
    for word in part.WORDS:
        if not isinstance(word.value, OneOf):
            yield [f"`{word.form}`", word.meaning]
            continue
        if word.value.listed_by:
            default = f"(default `{word.written(getattr(part, word.field))}`)"
            meaning = f"{word.meaning}: `{word.value.listed_by}` lists the names"
            yield [f"`{word.written('')}` {default}", meaning]
            continue
        yield [f"`{word.written('')}`", word.meaning]
        for name, value in word.value.names.items():
            default = " (default)" if getattr(part, word.field) == value else ""
            yield [f"`{word.written(name)}`{default}", word.value.meanings[value]]


def test_all_words_are_on_the_page():
    found = dict(re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", SECTIONS["All words"], re.M | re.S))
    assert list(found) == [name.replace("_", "-") for name in PARTS]
    for (name, text), part in zip(found.items(), PARTS.values(), strict=True):
        assert rows(text) == list(words_of(part)), name


def test_the_examples_are_canonical():
    examples = [text.strip("`") for text, _ in rows(SECTIONS["Grammar"])]
    assert len(examples) == 8
    assert [Schedule.parse(text).label() for text in examples] == examples


def test_older_forms_are_what_the_page_says():
    forms = [[cell.strip("`") for cell in row] for row in rows(SECTIONS["Older forms"])]
    assert len(forms) == 7
    for older, canonical in forms:
        assert Schedule.parse(older).label() == canonical


def test_python_runs():
    (code,) = blocks("python")
    exec(code, {})


def test_the_mapping_is_a_schedule():
    (text,) = blocks("yaml")
    schedule = Schedule.from_dict(yaml.safe_load(text))
    assert schedule.label() == "merge 0.25, prune linear:14:22 score=text-attention"


def test_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("sh")
    printed = []
    for command in commands.splitlines():
        name, *arguments = shlex.split(command)
        assert name == "aim-cost"
        answer = CliRunner().invoke(app, arguments)
        assert answer.exit_code == 0, answer.exception
        printed.append(answer.output)
    assert printed[0] == printed[1]
    assert (tmp_path / "tokens.png").exists()


def test_the_error_is_the_one_shown():
    shown = next(block for block in blocks("text") if block.startswith("schedule: "))
    text = re.search(r"of '(.*)'", shown)
    assert text is not None
    with pytest.raises(ScheduleError) as error:
        Schedule.parse(text[1])
    assert f"{error.value}\n" == shown
