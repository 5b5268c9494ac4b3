"""Notebooks: they run from a clean kernel, and what is committed is what a run leaves."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install '.[notebooks]'")
pytest.importorskip("nbclient", reason="pip install '.[notebooks]'")
pytest.importorskip("ipykernel", reason="pip install '.[notebooks]'")
pytest.importorskip("ipywidgets", reason="pip install '.[notebooks]'")

from scripts.run_notebooks import run  # noqa: E402  needs nbclient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
LOCAL = re.compile(
    r"(?<![\w.:/])/(home|root|tmp|usr|opt|work|Users|private|var)/|[A-Z]:\\\\|\.venv"
)
MOST_BYTES = 1_500_000

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """The kind of each output: a stream's name, or what a display offers."""
    return [output.get("name") or sorted(output.data) for output in cell.outputs]


def committed(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@each
def test_a_notebook_begins_with_at_most_four_import_lines(path):
    first = code_cells(committed(path))[0].source.splitlines()
    imports = [line for line in first if line.startswith(("import ", "from "))]
    assert first == ["%matplotlib inline", *[line for line in first[1:] if line in ("", *imports)]]
    assert 0 < len(imports) <= 4


@each
def test_what_is_committed_ran_in_order_and_without_complaint(path):
    cells = code_cells(committed(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) >= 3
    assert path.stat().st_size < MOST_BYTES


@each
def test_what_is_committed_tells_nothing_of_the_machine(path):
    notebook = committed(path)
    for cell in code_cells(notebook):
        assert cell.metadata == {}  # the editor's times and states
        for output in cell.outputs:
            data = {"text": output.get("text", "")} | dict(output.get("data", {}))
            data.pop("image/png", None)
            shown = "\n".join(data.values())
            assert not LOCAL.search(shown)
            assert " object at 0x" not in shown
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata["language_info"] == {"name": "python"}


@pytest.mark.slow
@each
def test_a_notebook_runs_from_a_clean_kernel(path):
    fresh, kept = code_cells(run(path)), code_cells(committed(path))
    assert [kinds(cell) for cell in fresh] == [kinds(cell) for cell in kept]
