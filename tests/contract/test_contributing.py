"""CONTRIBUTING.md: who follows an example literally gets what it promises."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIED = ("aim_cost", "aim_runtime", "hardware_profiles")
MODULES = {"aim-cost": "aim_cost.cli", "aim-runtime": "aim_runtime.cli"}
NUMBERS = {"one": 1, "two": 2, "three": 3}


@dataclass
class Example:
    """A section of the page: the files it writes, the command it runs, lines of the answer."""

    title: str
    files: list[tuple[str, str, bool]] = field(default_factory=list)
    command: str = ""
    answer: list[str] = field(default_factory=list)


def read(section: str) -> Example:
    title, _, text = section.partition("\n")
    example = Example(title)
    for before, language, block in re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)```", text, re.DOTALL):
        if language == "bash":
            example.command = block.strip()
        elif language == "text":
            example.answer = [line.strip() for line in block.strip().splitlines()]
        else:
            (path,) = re.findall(r"`([^`]+)`:$", before)
            example.files.append((path, block, before.startswith("At the end of")))
    return example


EXAMPLES = [
    read(section) for section in re.split(r"^##+ ", PAGE, flags=re.M) if "```bash" in section
]
EXAMPLES = [example for example in EXAMPLES if example.files]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    return subprocess.run(
        [sys.executable, "-m", MODULES[program], *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def answered(done: subprocess.CompletedProcess[str], example: Example) -> bool:
    lines = {line.strip() for line in done.stdout.splitlines()}
    return done.returncode == 0 and set(example.answer) <= lines


def test_the_page_has_examples():
    assert {example.title.split(":")[0] for example in EXAMPLES} == {
        "A GPU",
        "A plot",
        "A method whose scores are known",
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_an_example_works_as_it_stands(example, tmp_path):
    for package in COPIED:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    assert example.answer
    assert not answered(run(example.command, tmp_path), example)
    for path, text, at_the_end in example.files:
        assert (tmp_path / path).exists() == at_the_end
        with (tmp_path / path).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{text}" if at_the_end else text)
    done = run(example.command, tmp_path)
    assert answered(done, example), done.stdout + done.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_an_example_takes_as_many_files_as_its_title_says(example):
    number = re.search(r": (\w+) ", example.title)[1]
    assert len({path for path, _, _ in example.files}) == NUMBERS[number]
