"""Field checks of the specs: each returns the value when it is right, else raises an AimError."""

from collections.abc import Iterable, Mapping
from typing import Any

from aim_cost.errors import AimError


def whole(
    value: object, where: str, error: type[AimError], *, at_least: int = 1, fix: str = ""
) -> int:
    """Return ``value`` if it is an int of at least ``at_least``, no bool; else raise ``error``."""
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


def numbers(text: str, where: str, form: str, error: type[AimError]) -> tuple[float, ...]:
    """Read numbers with commas between them; raise ``error`` that shows the ``form`` otherwise."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as cause:
        raise error(where, expected=form, got=text or "nothing", fix="Use one form.") from cause


def integral(value: float, where: str, error: type[AimError]) -> int:
    """Return ``value`` as an int if it is one; raise ``error`` otherwise."""
    if value.is_integer():
        return int(value)
    raise error(where, expected="whole numbers", got=value, fix="Round it.")
