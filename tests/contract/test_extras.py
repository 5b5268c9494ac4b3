"""Without an optional library, what needs it says in one line what to install."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aim_cost.imports import EXTRAS

ROOT = Path(__file__).parents[2]
RUN = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
sys.argv = {arguments!r}
from {package}.cli.main import main
main()
"""


def run(package: str, *arguments: str, blocked: tuple[str, ...]) -> subprocess.CompletedProcess:
    code = RUN.format(blocked=blocked, package=package, arguments=[package, *arguments])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


COMMANDS = {
    "torch": [
        ("aim_runtime", "validate"),
        ("aim_runtime", "measure"),
        ("aim_runtime", "campaign", "--minutes", "9", "--dry-run", "--hardware", "h100-sxm"),
        ("aim_runtime", "selfcheck"),
        ("aim_runtime", "accuracy"),
        ("aim_runtime", "generate", "--video", "x.mp4", "--prompt", "what"),
        ("aim_runtime", "microbench", "--out", "x"),
        ("aim_runtime", "tiny", "train", "--out", "x"),
    ],
    "transformers": [("aim_runtime", "validate"), ("aim_runtime", "selfcheck")],
    "huggingface_hub": [("aim_cost", "predict", "--model", "owner/name")],
    "safetensors": [("aim_runtime", "selfcheck")],
    "packaging": [("aim_runtime", "validate", "--layers", "1")],
    "PIL": [("aim_runtime", "validate", "--layers", "1")],
    "pyarrow": [("aim_cost", "sweep", "--l1", "0:2", "--l2", "3", "--out", "{tmp}/x.parquet")],
    "ray": [
        ("aim_cost", "sweep", "--l1", "0:2", "--l2", "3", "--ray", "local", "--out", "{tmp}/x.csv")
    ],
    "sklearn": [("aim_runtime", "tiny", "train", "--out", "{tmp}/x")],
}


@pytest.mark.parametrize(
    ("library", "command"),
    [(library, command) for library, commands in COMMANDS.items() for command in commands],
)
def test_a_command_names_the_extra_of_what_it_lacks(library, command, tmp_path):
    package, *arguments = command
    arguments = [part.replace("{tmp}", str(tmp_path)) for part in arguments]
    done = run(package, *arguments, blocked=(library,))
    assert done.returncode == 2, done.stderr
    assert re.search(rf"aim-efficiency\[[\w,]*{EXTRAS[library]}\]", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()  # transformers says by itself that torch lacks
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]


def test_reading_a_video_without_av():
    code = (
        "import sys; sys.modules['av'] = None\n"
        "import aim_runtime\n"
        "try:\n    aim_runtime.sample_frames('x.mp4', 4)\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("MissingLibraryError"), done.stderr
    assert "aim-efficiency[runtime]" in done.stdout


def test_measuring_random_pixels_needs_no_av(tmp_path):
    arguments = ("campaign", "--minutes", "3", "--dry-run", "--hardware", "h100-sxm")
    done = run("aim_runtime", *arguments, "--out", str(tmp_path), blocked=("av",))
    assert done.returncode == 0, done.stderr


def test_prediction_needs_no_extra():
    done = run("aim_cost", "predict", "--format", "json", blocked=tuple(EXTRAS))
    assert done.returncode == 0, done.stderr
    assert '"ttft_s"' in done.stdout


def test_every_extra_is_one_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = {"PIL": "pillow", "sklearn": "scikit-learn"}
    for library, extra in EXTRAS.items():
        wanted = [line for line in extras[extra] if line.startswith(named.get(library, library))]
        assert wanted, (library, extra)
