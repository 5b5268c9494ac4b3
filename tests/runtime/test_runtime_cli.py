"""The aim-runtime command line, run as a user runs it."""

import json
import subprocess
import sys

import pytest

from tests.runtime.support import shared_golden
from tests.runtime.test_validate import tiny_config


def run(*arguments, status=0):
    result = subprocess.run(
        [sys.executable, "-m", "aim_runtime.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == status, result.stderr
    return result.stderr if status == 2 else result.stdout


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.json"
    path.write_text(json.dumps(tiny_config()))
    return path


def test_validate_json(config, tmp_path):
    answer = json.loads(
        run(
            *("validate", "--model", config, "--layers", 3, "--frames", 4, "--repeats", 2),
            *("--device", "cpu", "--dtype", "float32", "--plot", tmp_path / "v.png"),
            *("--format", "json"),
        )
    )
    assert answer["passed"]
    assert answer["flops_equal"]
    assert isinstance(answer["mape"], float)
    assert isinstance(answer["kendall_tau"], float)
    assert all(len(row["tokens_per_layer"]) == 3 for row in answer["rows"])
    assert answer["environment"]["torch"]
    assert (tmp_path / "v.png").exists()


def test_measure_writes_rows_and_resumes(config, tmp_path):
    out = tmp_path / "rows.json"
    arguments = (
        *("measure", "--model", config, "--frames", 2, "--repeats", 2, "--warmup", 0),
        *("--device", "cpu", "--dtype", "float32", "--out", out, "--resume"),
        *("--merge", "tokens:2", "--format", "json"),
    )
    first = json.loads(run(*arguments))
    assert [row["schedule"] for row in first] == ["none", "merge tokens:2"]
    assert all(row["repeats"] == 2 and row["error"] is None for row in first)
    assert json.loads(out.read_text())["rows"] == first
    assert json.loads(run(*arguments)) == first  # nothing was measured again


def test_selfcheck_on_recorded_vectors():
    vectors = shared_golden("prefill_prune_std0.1.safetensors")
    answer = json.loads(
        run("selfcheck", "--vectors", vectors, "--device", "cpu", "--format", "json")
    )
    assert answer["kept_sets_equal"] is True
    assert answer["greedy_tokens_equal"] is True
    assert answer["max_logit_difference"] <= 1e-4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("selfcheck", "--vectors", "/nowhere.safetensors"), "/nowhere.safetensors"),
        (("validate", "--model", "nobody"), "llava-1.5-7b"),
        (("validate", "--model", "llava-1.5-7b"), "LLaVA-OneVision"),
        (("validate", "--layers", "99"), "24"),
        (("validate", "--layers", "2", "--prune", "linear:2:3"), "l1 below 2"),
        (("validate", "--layers", "2", "--device", "tpu"), "device"),
        (("measure", "--layers", "2", "--pretrained"), "random"),
        (("measure", "--schedule", "/nowhere.yaml"), "/nowhere.yaml"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, named):
    message = run(*arguments, status=2)
    assert named in message
    assert "Traceback" not in message
