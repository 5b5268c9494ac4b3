"""Field checks shared by the specs: return the value when it is right, raise an AimError otherwise."""

from collections.abc import Iterable, Mapping
from typing import Any

from aim_cost.errors import AimError


def whole(
    value: object, where: str, error: type[AimError], *, at_least: int = 1, fix: str = ""
) -> int:
    """Return ``value`` if it is an int (not a bool) of at least ``at_least``; raise ``error`` otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= at_least:
        return value
    raise error(
        where,
        expected=f"a whole number of at least {at_least}",
        got=value,
        fix=fix or f"Correct {where}.",
    )


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
