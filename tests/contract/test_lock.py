"""The lock holds what pyproject.toml asks for, and the page of versions what was run."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKED = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_locked_within_its_range():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked: dict[str, list[Version]] = {}
    for name, version in LOCKED.findall(text):
        locked.setdefault(canonical(name), []).append(Version(version))
    wanted = [Requirement(line) for line in script("lock").requirements()]
    assert len(wanted) > 20
    for one in wanted:
        versions = locked.get(canonical(one.name))
        assert versions, f"{one.name}: run make lock"
        assert all(version in one.specifier for version in versions), f"{one}: run make lock"


def test_the_lock_names_no_index_and_no_build_of_torch():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?://|^-|^(torch|triton|nvidia-|cuda-)", text, re.MULTILINE)


def test_upper_bounds_are_there_and_the_newest_ignore_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = [*project["dependencies"], *project["optional-dependencies"]["runtime"]]
    free = {"packaging"}
    for line in ours:
        one = Requirement(line)
        assert "<" in str(one.specifier) or one.name in free, line
    source = (ROOT / "scripts" / "newest.py").read_text(encoding="utf-8")
    drop = re.search(r're\.sub\(r"(.+?)", ""', source)[1]
    for line in ours:
        assert "<" not in re.sub(drop, "", line)
        assert Requirement(re.sub(drop, "", line)).name == Requirement(line).name


def test_the_page_of_versions_is_what_the_command_prints():
    compatibility = script("compatibility")
    rows = compatibility.read()
    page = compatibility.PAGE.read_text(encoding="utf-8")
    assert compatibility.table(rows) in page
    assert page.count("\n| 3.") == len(rows)
    for path in compatibility.CHECKS:
        assert (ROOT / path).exists()
