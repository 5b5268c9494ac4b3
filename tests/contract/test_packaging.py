"""What an installation gives: the data files in a wheel, and a cost model that needs no torch."""

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFFLINE_WHEEL = ["pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
NEVER = {"torch", "transformers", "av", "aim_runtime"}

IMPORT_ALL = f"""
import importlib, pkgutil, sys
import aim_cost
names = [m.name for m in pkgutil.walk_packages(aim_cost.__path__, "aim_cost.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(*names)
loaded = {{name.partition(".")[0] for name in sys.modules}}
sys.exit(" ".join(sorted(loaded & {NEVER!r})) or 0)
"""
LOAD_ALL = """
import hardware_profiles
from aim_cost.devices.hardware import hardware_names, load_hardware
print(hardware_profiles.__file__)
for name in hardware_names():
    print(load_hardware(name).name)
"""


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: pip install '.[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", *OFFLINE_WHEEL, "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_source_and_data_file(wheel: zipfile.ZipFile):
    held = set(wheel.namelist())
    for package in ("aim_cost", "aim_runtime", "hardware_profiles"):
        for suffix in ("py", "yaml", "json"):
            for path in (ROOT / package).rglob(f"*.{suffix}"):
                assert path.relative_to(ROOT).as_posix() in held
    assert {"aim_cost/py.typed", "aim_runtime/py.typed"} <= held
    assert any(
        name.startswith("aim_cost/models/presets/") and name.endswith(".json") for name in held
    )
    assert "hardware_profiles/a100-sxm4-40gb.yaml" in held


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile):
    tops = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == {"aim_cost", "aim_runtime", "hardware_profiles"}


def test_profiles_are_found_in_an_installed_wheel(wheel: zipfile.ZipFile, tmp_path: Path):
    wheel.extractall(tmp_path)
    done = python(LOAD_ALL, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    found, *names = done.stdout.splitlines()
    assert Path(found).is_relative_to(tmp_path)
    assert names == sorted(path.stem for path in (ROOT / "hardware_profiles").glob("*.yaml"))


def test_the_base_install_asks_for_no_torch(wheel: zipfile.ZipFile):
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = email.message_from_string(wheel.read(name).decode())
    needs = metadata.get_all("Requires-Dist", [])
    base = [need for need in needs if "extra ==" not in need]
    assert base
    assert not [need for need in base if need.startswith(("torch", "transformers", "nvidia"))]
    assert [need for need in needs if need.startswith("torch") and "runtime" in need]
    assert not [need for need in needs if need.startswith("torchvision")]
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_console_scripts_are_declared(wheel: zipfile.ZipFile):
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt")]
    scripts = wheel.read(name).decode()
    assert "aim-cost = aim_cost.cli.main:main" in scripts
    assert "aim-runtime = aim_runtime.cli.main:main" in scripts


def test_no_module_of_aim_cost_imports_torch_or_the_runtime():
    done = python(IMPORT_ALL)
    assert done.returncode == 0, f"imported: {done.stderr}"
    files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "aim_cost").rglob("*.py")]
    modules = {".".join(file.parts).removesuffix(".__init__") for file in files} - {"aim_cost"}
    assert set(done.stdout.split()) == modules  # none is out of reach, none was left out
