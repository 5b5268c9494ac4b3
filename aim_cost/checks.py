"""Field checks of the specs: each returns the value when it is right, else raises an AimError."""

import math
import re
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any

from aim_cost.errors import AimError

LARGEST = 10**9
"""The largest whole number that is taken where nothing smaller is said."""

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_MOST_DIGITS = 40


def whole(
    value: object,
    where: str,
    error: type[AimError],
    *,
    at_least: int = 1,
    at_most: int = LARGEST,
    fix: str = "",
) -> int:
    """Return ``value`` if it is an int in these bounds, no bool; raise ``error`` otherwise."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole and at_least <= value <= at_most:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    above = is_whole and value > at_most  # type: ignore[operator]
    raise error(
        where,
        expected=f"a whole number of at {f'most {at_most}' if above else f'least {at_least}'}",
        got=value,
        fix=fix or f"Correct {where}.",
    )


def instance(
    value: object, kinds: type | UnionType, where: str, error: type[AimError], *, fix: str
) -> None:
    """Raise ``error`` unless ``value`` is of one of ``kinds``."""
    if not isinstance(value, kinds):
        parts = kinds.__args__ if isinstance(kinds, UnionType) else (kinds,)
        names = [part.__name__ for part in parts]
        raise error(where, expected=f"a {' or '.join(names)}", got=value, fix=fix)


def one_of(value: object, names: Iterable[str], where: str, error: type[AimError]) -> str:
    """Return ``value`` if it is one of ``names``; raise ``error`` that lists them otherwise."""
    valid = sorted(names)
    if isinstance(value, str) and value in valid:
        return value
    raise error(
        where, expected="one of the known names", got=value, fix=f"Known: {', '.join(valid)}."
    )


def mapping(
    value: object, where: str, error: type[AimError], *, keys: Iterable[str] | None = None
) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping whose keys all lie in ``keys`` (any, when None)."""
    if not isinstance(value, Mapping):
        raise error(where, expected="a mapping", got=value, fix=f"Write {where} as key: value.")
    if keys is not None:
        valid = sorted(keys)
        for key in value:
            if key not in valid:
                raise error(
                    f"{where}.{key}",
                    expected="no such key",
                    got=f"{key!r}",
                    fix=f"Remove it; valid keys: {', '.join(valid)}.",
                )
    return value


def ratio(value: object, where: str, error: type[AimError], *, zero_allowed: bool = False) -> float:
    """Return ``value`` if it is a number in (0, 1], or in [0, 1]; raise ``error`` otherwise."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (0 < value <= 1 or (zero_allowed and value == 0)):  # type: ignore[operator]
        return value  # type: ignore[return-value]
    interval = "[0, 1]" if zero_allowed else "(0, 1]"
    raise error(where, expected=f"a ratio in {interval}", got=value, fix="It is the share kept.")


def sequence(value: object, where: str, error: type[AimError]) -> tuple[Any, ...]:
    """Return ``value`` as a tuple if it is a list or a tuple; raise ``error`` otherwise."""
    if isinstance(value, list | tuple):
        return tuple(value)
    raise error(where, expected="a list", got=value, fix="Write it as [a, b, ...].")


def number(text: str) -> float | None:
    """The number that ``text`` writes in plain digits; None for any other text."""
    text = text.strip()
    if len(text) > _MOST_DIGITS or not _NUMBER.fullmatch(text):
        return None
    found = float(text)
    return found if math.isfinite(found) else None


def numbers(text: str, where: str, form: str, error: type[AimError]) -> tuple[float, ...]:
    """Read numbers with commas between them; raise ``error`` that shows the ``form`` otherwise."""
    found = [number(part) for part in text.split(",")]
    if None in found:
        raise error(where, expected=form, got=text or "nothing", fix="Use one form.")
    return tuple(one for one in found if one is not None)


def integral(value: float, where: str, error: type[AimError]) -> int:
    """Return ``value`` as an int if it is one; raise ``error`` otherwise."""
    if value.is_integer():
        return int(value)
    raise error(where, expected="whole numbers", got=value, fix="Round it.")


def unused_name(name: object, taken: Iterable[str], where: str, error: type[AimError]) -> None:
    """Raise ``error`` unless ``name`` can be written in a schedule and is none of ``taken``."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        form = "small letters, digits and single hyphens, a letter first"
        raise error(where, expected=form, got=name, fix="E.g. largest-norm.")
    if name in set(taken):
        raise error(where, expected="one that is not taken", got=name, fix="Choose another.")
