"""Widths of data types and the printing of quantities: the only file with 1e9 or 2**30."""

from aim_cost.checks import one_of
from aim_cost.errors import SpecError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_FACTORS = {"m": 1e-3, **{prefix: factor for factor, prefix in _PREFIXES}}


def dtype_bytes(dtype: str) -> int:
    """The width of one element of ``dtype``, bytes. Raises SpecError for an unknown name."""
    return DTYPE_BYTES[one_of(dtype, DTYPE_BYTES, "dtype", SpecError)]


def show(value: float, unit: str, digits: int = 2) -> str:
    """Print ``value`` with an SI prefix, e.g. ``show(99.47e12, "FLOPs") == "99.47 TFLOPs"``."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{value / factor:.{digits}f} {prefix}{unit}"
    return f"{value:.{digits}f} {unit}"


def show_time(seconds: float) -> str:
    """Print a duration in milliseconds, the unit the field reports prefill in."""
    return f"{seconds * 1e3:.2f} ms"


def si(value: float, prefix: str) -> float:
    """Return ``value``, given with a prefix, in the base unit: ``si(120, "m") == 0.12``."""
    return value * _FACTORS[prefix]


def round_up(value: float, prefix: str, digits: int = 2) -> str:
    """The fewest units of ``prefix`` that hold ``value``: ``round_up(0.0665412, "m") == "66.55"``.

    What is typed from it is never below ``value``.
    """
    text = f"{value / _FACTORS[prefix]:.{digits}f}"
    if si(float(text), prefix) < value:
        text = f"{float(text) + 10**-digits:.{digits}f}"
    return text


def tera(value: float) -> float:
    """Return ``value`` in units of 10**12 (TFLOPs in the published tables)."""
    return value / 1e12


def giga(value: float) -> float:
    """Return ``value`` in units of 10**9."""
    return value / 1e9


def mega(value: float) -> float:
    """Return ``value`` in units of 10**6."""
    return value / 1e6


def milli(seconds: float) -> float:
    """Return seconds in units of 10**-3."""
    return seconds * 1e3
