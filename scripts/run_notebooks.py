"""Run notebooks, each in a kernel of its own, and keep the outputs in the files."""

import sys
import time
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  builds its cache here, not with a message in a notebook
import nbformat
from nbclient import NotebookClient

from aim_cost.files import write_atomically

TIMEOUT_S = 180


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh kernel in its folder. Raises: CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_blank(output)]
    # not the Python version of whoever ran it last
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def _is_blank(output: nbformat.NotebookNode) -> bool:
    """A stream without text, such as a progress bar leaves behind."""
    return output.output_type == "stream" and not output.text.strip()


def main(names: list[str]) -> None:
    for name in names:
        start = time.monotonic()
        notebook = run(Path(name))
        write_atomically(name, nbformat.writes(notebook).encode() + b"\n")
        print(f"{name}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
