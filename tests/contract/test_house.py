"""The shape of the packages: few rooms, small files, imports that run one way."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from aim_cost.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("aim_cost", "aim_runtime")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}
"""Every module of both packages, by its name."""


def imported(module: str) -> Iterator[str]:
    """The modules of ours that ``module`` imports, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            for alias in node.names:
                part = f"{node.module}.{alias.name}"
                yield part if part in FILES else node.module


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


IMPORTS = {module: set(imported(module)) for module in FILES}


def test_imports_are_seen():
    assert "aim_cost.errors" in IMPORTS["aim_cost.checks"]
    assert "aim_cost.plots" in IMPORTS["aim_cost.cli.plot"]  # inside a function
    assert sum(map(len, IMPORTS.values())) > 500


def test_no_files_import_each_other():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names them


def test_no_rooms_import_each_other():
    """So each room stands on those that it imports, and no arrow runs up."""
    rooms: dict[str, set[str]] = {}
    for module, found in IMPORTS.items():
        rooms.setdefault(room(module), set()).update(map(room, found))
    for name, found in rooms.items():
        found.discard(name)
    TopologicalSorter(rooms).prepare()


def test_the_cost_model_does_not_know_the_runtime():
    assert not [
        (module, name)
        for module, found in IMPORTS.items()
        for name in found
        if module.startswith("aim_cost") and name.startswith("aim_runtime")
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_at_most_20_rooms(package):
    rooms = {room(module) for module in FILES if module.startswith(f"{package}")}
    assert len(rooms) <= 20, sorted(rooms)


def test_no_file_is_too_long():
    folders = (*PACKAGES, "benchmarks", "scripts", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: count for path, count in lines.items() if count > 360} == {}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_named_in_one_file_of_each_package(model_type):
    """Beside its presets; what only some families do is asked of the family, not of its name."""
    naming = {name for name, path in FILES.items() if f'"{model_type}"' in path.read_text()}
    adapters = {name for name in naming if name.startswith("aim_runtime.models.adapters.")}
    assert len(adapters) == 1
    assert naming - adapters == {"aim_cost.models.families"}
