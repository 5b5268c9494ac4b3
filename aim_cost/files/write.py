"""Writing files so that a reader never sees half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aim_cost.errors import OutputError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and move it there; an interrupted write leaves no trace.

    Raises: OutputError where the system refuses.
    """
    target = Path(path)
    with _refusals_of(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise


def make_folder(folder: Path) -> None:
    """Make a folder to write to, before the work whose results it is for.

    Raises: OutputError where no file can be written there.
    """
    with _refusals_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def _refusals_of(path: Path) -> Iterator[None]:
    """What the system says against writing ``path``, as an OutputError."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise OutputError(
            str(path), expected="a place to write to", got=str(error), fix="Name another one."
        ) from error
