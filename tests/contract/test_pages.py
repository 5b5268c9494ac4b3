"""README and docs: what they show below a command is the command's answer, or a part of it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOWN = [
    pytest.param(command.replace("\\\n", " "), answer, id=f"{page.name}, {command[:40]}")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for command, answer in re.findall(
        r"```bash\n(?:\.venv/bin/)?(aim-cost [^`]*)```\n\n```text\n(.*?)```",
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
]


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def test_the_pages_show_answers():
    assert len(SHOWN) >= 4


@pytest.mark.parametrize(("command", "answer"), SHOWN)
def test_a_page_shows_what_the_command_prints(command, answer):
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "aim_cost.cli", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    shown, printed = lines(answer), lines(done.stdout)
    start = printed.index(shown[0])
    assert printed[start : start + len(shown)] == shown


def test_the_readme_counts_the_devices():
    (devices,) = re.findall(r"on (\d+) devices", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert int(devices) == len(list((ROOT / "hardware_profiles").glob("*.yaml")))
