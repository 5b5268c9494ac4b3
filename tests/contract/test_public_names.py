"""The public names of both packages: real, lazy, and cheap to import."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COST = {
    *("Case", "Workload", "Execution", "Schedule", "ModelSpec", "HardwareProfile", "Estimate"),
    *("AimError", "estimate", "load_model_spec", "preset_config", "load_hardware"),
    *("model_parameters", "sweep", "compare", "plan", "plots", "pairs"),
}
RUNTIME = {
    *("patched", "patch", "unpatch", "load", "measure", "validate", "selfcheck"),
    *("sample_frames", "RunTrace", "PatchError", "own_selection", "own_score"),
}
HEAVY = ("torch", "transformers", "pandas", "matplotlib", "sympy", "scipy")

each = pytest.mark.parametrize(("package", "names"), [("aim_cost", COST), ("aim_runtime", RUNTIME)])


def for_checkers(package):
    """The names that a type checker finds: imports under TYPE_CHECKING, and their modules."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    (block,) = [node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING"]
    found = {}
    for node in block.body:
        for name in node.names:
            assert name.asname == name.name  # what makes it public for a checker
            found[name.name] = node.module
    return found


@each
def test_every_public_name_is_the_one_that_a_checker_sees(package, names):
    if package == "aim_runtime":
        pytest.importorskip("torch")
    module = importlib.import_module(package)
    checked = for_checkers(package)
    assert set(module.__all__) == set(checked) == names <= set(dir(module))
    for name, home in checked.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


@each
def test_no_module_has_the_name_of_a_function_or_a_class(package, names):
    """``import package.name`` would put the module where the function was."""
    path = importlib.import_module(package).__path__
    assert {module.name for module in pkgutil.iter_modules(path)} & names <= {"plots"}


@each
def test_a_name_that_is_not_there_is_an_attribute_error(package, names):
    with pytest.raises(AttributeError, match=f"{package}.*'typo'"):
        getattr(importlib.import_module(package), "typo")  # noqa: B009  a name, not a value


def python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


LOADED = f"""
import sys
print("loaded:", *sorted({{name.partition(".")[0] for name in sys.modules}} & set({HEAVY!r})))
"""
PREDICT = """
import sys
from aim_cost.cli.main import app
app(["predict", "--merge", "0.25", "--prune", "linear:14:22"], standalone_mode=False)
"""
CASE = """
import aim_cost as aim
case = aim.Case("llava-onevision-qwen2-7b", aim.Workload(100, frames=32), "h100-sxm")
print(case.price(aim.Schedule.parse("merge 0.25, prune linear:14:22")))
"""


@pytest.mark.parametrize(
    "code", ["import aim_cost, aim_runtime", PREDICT, CASE], ids=["import", "predict", "case"]
)
def test_a_prediction_loads_no_heavy_library(code):
    """What keeps ``aim-cost predict`` at a third of a second."""
    done = python(code + LOADED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_a_heavy_library_would_be_seen():
    assert python(f"import aim_cost\naim_cost.sweep\n{LOADED}").stdout == "loaded: pandas sympy\n"


def test_the_readme_s_python_runs_and_gives_the_numbers_beside_it():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "aim.Case(" in block]
    names = {}
    exec(code, names)
    said = re.findall(r"^(answer\S+)  # ([0-9]+)$", code, re.MULTILINE)
    assert said
    for expression, number in said:
        assert eval(expression, names) == int(number)


def test_without_torch_only_the_names_fail_and_say_what_to_install():
    hidden = "import sys; sys.modules['torch'] = None; import aim_runtime; print('imported');"
    done = python(f"{hidden} aim_runtime.PatchError; print('error'); aim_runtime.patched")
    assert done.stdout.split() == ["imported", "error"]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("aim_cost.imports.MissingLibraryError: import torch: expected torch")
    assert "aim-efficiency[runtime]" in last
