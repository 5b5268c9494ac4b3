"""JSON as values."""

import json
import re
from typing import Any

from aim_cost.files.limits import DEEPEST, TOO_DEEP, fraction, whole_number

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def json_tree(text: str, *, nan_is_none: bool = False) -> Any:
    """What JSON says. A key that stands there twice and a number that is not finite are refused.

    Args: nan_is_none, take NaN, Infinity and -Infinity, which are no JSON but which Python writes,
        for a value that is missing.
    Raises: ValueError.
    """
    try:
        tree = json.loads(
            text,
            object_pairs_hook=_mapping,
            parse_int=whole_number,
            parse_float=fraction,
            parse_constant=_none if nan_is_none else fraction,
        )
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_depth(tree)
    if _SURROGATE.search(text):
        _check_characters(tree)
    return tree


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} twice")
    return found


def _none(text: str) -> None:
    del text


def _check_depth(tree: Any) -> None:
    level = [tree]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ValueError(TOO_DEEP)


def _check_characters(tree: Any) -> None:
    """Half of a character that JSON writes in two halves could not be printed."""
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character, {error.object[error.start]!a}") from None
