"""What a file of YAML or JSON holds."""

from collections.abc import Callable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from aim_cost.errors import AimError
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.files.yaml_text import yaml_tree


def read_tree(
    file: Path | Traversable, where: str, error: type[AimError], *, fix: str, find: str = ""
) -> Any:
    """What a file holds: JSON where its name ends so, else YAML; None for an empty one.

    Args: where, what errors call the file; fix, what to do about its content; find, where to look
        for a file that is not there.
    Raises: ``error``.
    """
    read = read_json if file.name.endswith(".json") else read_yaml
    return read(file, where, error, fix=fix, find=find)


def read_json(
    file: Path | Traversable, where: str, error: type[AimError], *, fix: str, find: str = ""
) -> Any:
    """``read_tree`` of a file that is JSON whatever its name."""
    return _read(file, json_tree, "JSON", where, error, fix, find)


def read_yaml(
    file: Path | Traversable, where: str, error: type[AimError], *, fix: str, find: str = ""
) -> Any:
    """``read_tree`` of a file that is YAML whatever its name."""
    return _read(file, yaml_tree, "YAML", where, error, fix, find)


def _read(
    file: Path | Traversable,
    parse: Callable[[str], Any],
    kind: str,
    where: str,
    error: type[AimError],
    fix: str,
    find: str,
) -> Any:
    try:
        text = text_of(file)
        return parse(text) if text.strip() else None
    except OSError as cause:
        got = cause.strerror or str(cause)
        fix = f"Correct the path{f'; {find}' if find else ''}."
        raise error(where, expected="a readable file", got=got, fix=fix) from cause
    except ValueError as cause:
        raise error(where, expected=kind, got=str(cause), fix=fix) from cause
