"""method_from_code(): the method that a user's Python file makes."""

from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from aim_cost.errors import AimError, ScheduleError
from aim_cost.methods.method import Method


def method_from_code(path: str | Path) -> Method:
    """Run a Python file, and return the one ``@method`` that it makes.

    Scores that the file registers are known from then on. Raises: ScheduleError, and any AimError
    of the file.
    """
    where = Path(path).resolve()
    if not where.is_file():
        raise ScheduleError(
            str(path), expected="a Python file", got="none of that name", fix="Correct the path."
        )
    return _run(where, where.stat().st_mtime_ns)


@lru_cache
def _run(path: Path, changed_ns: int) -> Method:
    """The method of a file, which runs once unless it has changed."""
    spec = spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except AimError:
        raise
    except Exception as error:
        raise ScheduleError(
            str(path),
            expected="Python that runs",
            got=f"{type(error).__name__}: {error}",
            fix="Correct the file; docs/own_methods.md has one that runs.",
        ) from error
    made = [value for value in vars(module).values() if isinstance(value, Method)]
    if len(made) != 1:
        raise ScheduleError(
            str(path),
            expected="one function under @method",
            got=", ".join(method.name for method in made) or "none",
            fix="docs/own_methods.md has a whole file.",
        )
    return made[0]
