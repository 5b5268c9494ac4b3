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
COPIED = ("aim_cost", "aim_runtime", "hardware_profiles", "tests", "pyproject.toml")
MODULES = {"aim-cost": ["-m", "aim_cost.cli"], "aim-runtime": ["-m", "aim_runtime.cli"]}
NUMBERS = {"one": 1, "two": 2, "three": 3}


@dataclass(frozen=True)
class Block:
    """Text for a file: all of a new one, the end of one, or lines before the line ``before``."""

    path: str
    text: str
    at_the_end: bool
    before: str | None

    def write(self, folder: Path) -> None:
        file = folder / self.path
        assert file.exists() == (self.at_the_end or self.before is not None)
        if self.before is not None:
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            place = next(i for i, line in enumerate(lines) if line.startswith(self.before))
            gap = "" if self.text.startswith(" ") else "\n\n"
            lines.insert(place, self.text + gap)
            file.write_text("".join(lines), encoding="utf-8")
        else:
            with file.open("a", encoding="utf-8") as end:
                end.write("\n\n" * self.at_the_end + self.text)


@dataclass
class Example:
    """A section of the page: the files it writes, the command it runs, lines of the answer."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    command: str = ""
    answer: list[str] = field(default_factory=list)


def read(section: str) -> Example:
    title, _, text = section.partition("\n")
    example = Example(title)
    for above, language, block in re.findall(r"([^\n]*)\n\n```(\w*)\n(.*?)```", text, re.DOTALL):
        if language == "bash":
            example.command = block.strip()
        elif language == "text":
            example.answer = [line.strip() for line in block.strip().splitlines()]
        else:
            where = re.fullmatch(r"(At the end of |In )?`([^`]+)`(, before `([^`]+)`)?:", above)
            assert where, above
            example.blocks.append(Block(where[2], block, where[1] == "At the end of ", where[4]))
    return example


EXAMPLES = [read(section) for section in re.split(r"^##+ ", PAGE, flags=re.M)]
EXAMPLES = [example for example in EXAMPLES if example.blocks]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    return subprocess.run(
        [sys.executable, *MODULES.get(program, []), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def answered(done: subprocess.CompletedProcess[str], example: Example) -> bool:
    lines = {line.strip() for line in done.stdout.splitlines()}
    return done.returncode == 0 and set(example.answer) <= lines


@pytest.fixture
def copy(tmp_path):
    """A copy of the packages, in which an example may write."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "golden", "contract")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_page_has_examples():
    assert {example.title.split(":")[0] for example in EXAMPLES} == {
        "A GPU",
        "A plot",
        "A method whose scores are known",
        "A score inside the LLM that runs",
        "A family of models whose tower is known",
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_an_example_works_as_it_stands(example, copy):
    assert not answered(run(example.command, copy), example)
    for block in example.blocks:
        block.write(copy)
    done = run(example.command, copy)
    assert answered(done, example), done.stdout + done.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_an_example_takes_as_many_files_as_its_title_says(example):
    number = re.search(r": (\w+) file", example.title)[1]
    paths = {block.path for block in example.blocks if not block.path.startswith("tests/")}
    assert len(paths) == NUMBERS[number]


SMALLEST = """
import json
from transformers import DeepseekVLForConditionalGeneration
from aim_runtime.models.smallest import smallest_model
with open("smallest.json", "w") as file:
    json.dump(smallest_model(DeepseekVLForConditionalGeneration).config.to_dict(), file)
"""


def test_the_family_runs_as_it_is_priced(copy):
    """The last command of the page, on the smallest model of the family."""
    (example,) = [example for example in EXAMPLES if "family" in example.title]
    for block in example.blocks:
        block.write(copy)
    done = run(f"python -c {shlex.quote(SMALLEST)}", copy)
    assert done.returncode == 0, done.stderr
    done = run(
        "aim-runtime validate --model smallest.json --image 16x16 --text-tokens 8 --dtype float32 "
        "--hardware cpu-generic --schedule none --schedule 'merge 0.5, prune linear:1:3'",
        copy,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Token traces equal; FLOPs equal" in done.stdout
