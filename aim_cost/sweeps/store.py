"""write_sweep(): a sweep as one CSV or Parquet file, chunk by chunk, so that it can be resumed."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from aim_cost.checks import one_of
from aim_cost.errors import SpecError
from aim_cost.files import write_atomically
from aim_cost.imports import import_optional
from aim_cost.sweeps.chunk import chunk
from aim_cost.sweeps.grid import Grid
from aim_cost.sweeps.spread import spread

_CLAIM = "sweep.sha256"
SUFFIXES = (".csv", ".parquet")


def write_sweep(grid: Grid, path: str | Path, address: str | None = None) -> Iterator[int]:
    """Write all rows to ``path``; yields how many chunks are finished, after each one.

    Args: address, of a Ray cluster whose workers price the chunks, as in ``spread``; they are
    written here.

    Finished chunks are kept in a folder next to it, ``<name>.parts``. When all are there, they are
    joined into the file, which appears in one step, and the folder is removed. So an interrupted
    sweep keeps its finished chunks, and the same call goes on with the next one.
    Raises: SpecError for another suffix or the parts of another sweep; MissingLibraryError.
    """
    target = Path(path)
    one_of(target.suffix, SUFFIXES, f"suffix of {target}", SpecError)
    if target.suffix == ".parquet":
        import_optional("pyarrow", otherwise="write a .csv")
    folder = target.with_name(f"{target.name}.parts")
    _claim(folder, grid)
    parts = [folder / f"{index:08d}" for index in range(grid.chunks)]
    todo = [index for index, part in enumerate(parts) if not part.exists()]
    finished = len(parts) - len(todo)
    if finished:
        yield finished
    for index, frame in spread(partial(chunk, grid), todo, address):
        write_atomically(parts[index], _encode(frame, target.suffix, header=index == 0))
        finished += 1
        yield finished
    joined = folder / "joined"
    _join(parts, joined, target.suffix)
    joined.replace(target)
    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the parts, then the claim: parts without one could pass for another sweep's."""
    for part in folder.iterdir():
        if part.name != _CLAIM:
            part.unlink()
    (folder / _CLAIM).unlink()
    folder.rmdir()


def _claim(folder: Path, grid: Grid) -> None:
    """Write which sweep the parts belong to. Raises: SpecError for parts of another sweep."""
    first_rows = chunk(grid, 0).head(100).to_csv()  # a calibration may have changed since
    mark = hashlib.sha256(f"{grid!r}\n{first_rows}".encode()).hexdigest()
    claim = folder / _CLAIM
    if not claim.exists():
        write_atomically(claim, mark.encode())
    elif claim.read_text(encoding="ascii") != mark:
        raise SpecError(
            str(folder),
            expected="the finished parts of this sweep",
            got="those of another one",
            fix="Repeat that command to finish it, remove the folder, or write another file.",
        )


def _encode(frame: pd.DataFrame, suffix: str, *, header: bool) -> bytes:
    if suffix == ".csv":
        return frame.to_csv(index=False, header=header).encode()
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _join(parts: Sequence[Path], joined: Path, suffix: str) -> None:
    if suffix == ".csv":
        with joined.open("wb") as whole:
            for part in parts:
                whole.write(part.read_bytes())
        return
    from pyarrow import parquet

    with parquet.ParquetWriter(joined, parquet.read_schema(parts[0])) as whole:
        for part in parts:
            whole.write_table(parquet.read_table(part))
