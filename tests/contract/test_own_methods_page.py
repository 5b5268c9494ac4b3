"""docs/own_methods.md: who follows it gets a priced and a counted row."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own_methods.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
MODULES = {"aim-cost": "aim_cost.cli", "aim-runtime": "aim_runtime.cli"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    (path / "largest_norm.py").write_text(BLOCKS[0], encoding="utf-8")
    return path


def rows(folder, command):
    name, *arguments = shlex.split(command)
    result = subprocess.run(
        [sys.executable, "-m", MODULES[name], *arguments, "--format", "json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_file_is_short():
    assert len(BLOCKS[0].strip().splitlines()) <= 25


def test_it_is_priced(folder):
    methods = [row["method"] for row in rows(folder, COMMANDS[0])]
    assert {"aim", "largest-norm", "uniform"} <= set(methods)


def test_it_runs_and_is_counted(folder):
    command = COMMANDS[1].replace("--frames 8", "--frames 2 --new-tokens 2")
    found = {row["method"]: row for row in rows(folder, command)["rows"]}
    assert found["largest-norm"]["flops_equal"] is True
    assert found["largest-norm"]["visual_tokens"] == found["uniform"]["visual_tokens"]


def test_the_score_inside_runs_too():
    from aim_cost import Schedule
    from aim_cost.ops.scores import LAYER_SCORES
    from aim_runtime.reduction.scores import LAYER_IMPORTANCE

    exec(BLOCKS[1], {})
    assert Schedule.parse("prune linear:14:22 score=first-row").prune is not None
    del LAYER_SCORES["first-row"], LAYER_IMPORTANCE["first-row"]
