"""The page of the tiny model: its tables are what its commands print from the committed rows."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from aim_cost.methods import parse_methods
from aim_runtime.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tiny_model.md").read_text(encoding="utf-8")
SHOWN = [
    pytest.param(shlex.split(command.replace("\\\n", " ")), answer, id=command.split()[2])
    for command, answer in re.findall(
        r"```bash\n(aim-runtime accuracy [^`]*--resume)\n```\n+```text\n(.*?)```", PAGE, re.DOTALL
    )
]
FILES = {"tiny": "methods.json", "tiny-36": "methods-36.json"}


def rows(model):
    """Rows of all questions, those of methods at budgets."""
    tree = json.loads((ROOT / "measurements" / "tiny" / FILES[model]).read_text(encoding="utf-8"))
    return [row for row in tree["rows"] if row["kind"] == "all" and row.get("method")]


def test_the_page_shows_both_models():
    assert len(SHOWN) == len(FILES) == 2


@pytest.mark.parametrize(("command", "answer"), SHOWN)
def test_a_table_is_what_its_command_prints_from_the_rows(
    command, answer, tmp_path, monkeypatch, capfd
):
    """No question is asked for it: the rows are all there."""
    name = command[command.index("--out") + 1]
    copy = tmp_path / name
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / name, copy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aim_runtime.tiny.exam.draw_exam", None)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    printed = capfd.readouterr()
    assert not end.value.code, printed.err
    assert [line.rstrip() for line in printed.out.strip().splitlines()] == [
        line.rstrip() for line in answer.strip().splitlines()
    ]


@pytest.mark.parametrize("model", FILES)
def test_the_rows_are_of_all_methods_that_were_asked_for(model):
    """Of those that the page's command names; no budget of tokens moves ToMe."""
    commands = [one.values[0] for one in SHOWN]
    (command,) = [one for one in commands if FILES[model] in " ".join(one)]
    asked = [one.method for one in parse_methods(command[command.index("--methods") + 1])]
    found = {row["method"].partition(":")[0] for row in rows(model)}
    assert found == {method.name for method in asked if method.runs} - {"tome"}
    assert {row["n"] for row in rows(model)} == {1000}
    assert {row["budget"] for row in rows(model)} == {0.5, 0.25, 0.125}


@pytest.mark.parametrize("model", FILES)
def test_the_page_counts_who_beats_chance(model):
    """``| tiny | 50 % | 10 of 25 | 4 | 0.6 | ...``: better, worse, and better by chance."""
    lines = re.findall(rf"^\| {model} \| (.*) \|$", PAGE, re.MULTILINE)
    expected = []
    for budget in (0.5, 0.25, 0.125):
        told = [row for row in rows(model) if row["budget"] == budget]
        cells = [f"{100 * budget:g} %"]
        for baseline in ("to_random", "to_uniform"):
            ends = [
                (row[f"{baseline}_low"], row[f"{baseline}_high"])
                for row in told
                if row[baseline] is not None
            ]
            better = sum(low > 0 for low, _ in ends)
            worse = sum(high < 0 for _, high in ends)
            cells += [f"{better} of {len(ends)}", str(worse)]
        expected.append(" | ".join([*cells, f"{0.025 * len(ends):.1f}"]))
    assert lines == expected


@pytest.mark.parametrize("model", FILES)
@pytest.mark.parametrize("word", ["better", "worse"])
def test_the_page_names_who_beats_chance_at_every_budget(model, word):
    (listed,) = re.findall(rf"^- {model}, {word} than random: (.*)\.$", PAGE, re.MULTILINE)
    told: dict[str, list[bool]] = {}
    for row in rows(model):
        if row["to_random"] is not None:
            apart = row["to_random_low"] > 0 if word == "better" else row["to_random_high"] < 0
            told.setdefault(row["method"], []).append(apart)
    assert listed.split(", ") == [name for name, apart in told.items() if all(apart)]


def test_what_the_page_says_of_aim():
    gains, used = {}, {}
    for model in FILES:
        aim = [row for row in rows(model) if row["method"] == "aim"]
        gains[model] = in_words(f"{100 * row['to_random']:.1f}" for row in aim)
        used[model] = in_words(f"{100 * row['used']:.0f}" for row in aim)
    first, second = gains.values()
    assert f"by {first} points on tiny, and by {second} on tiny-36" in PAGE
    first, second = used.values()
    assert f"it uses {first} % of the three budgets with 16 of them, and {second} % with 36" in PAGE


def in_words(words):
    *others, last = words
    return f"{', '.join(others)} and {last}"
