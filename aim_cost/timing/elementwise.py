"""Figures of elementwise kernels as transformers runs them, and of the host that starts kernels."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from aim_cost.checks import mapping, whole
from aim_cost.errors import ProfileError
from aim_cost.files.text import text_of
from aim_cost.files.yaml_text import yaml_tree
from aim_cost.ops.kind import Elementwise, Importance, Steps


@dataclass(frozen=True)
class Ranged:
    """A number with its 90 % range and its source."""

    value: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class KernelFigures:
    """Memory-bound kernels of one kind.

    Args: kernels launched for one op; traffic, bytes they move over the least bytes of the op;
    efficiency, low, high: share of the datasheet bandwidth they reach; source, text; start_s,
    seconds before the first byte of each part moves, None for those of starting its kernels.
    """

    kernels: int
    traffic: float
    efficiency: float
    low: float
    high: float
    source: str
    start_s: float | None = None


@dataclass(frozen=True)
class Dispatch:
    """Seconds the host needs to start a kernel; seconds a started kernel needs at least."""

    host_s_per_kernel: Ranged
    launch_s: Ranged
    graph_launch_s: Ranged


def measured_as(kind: Elementwise | Importance | Steps) -> Elementwise:
    """The kind under which an op is measured: that of each of its parts, where it has several."""
    return kind if isinstance(kind, Elementwise) else Elementwise(kind.label)


def figures_of(known: Mapping[Elementwise, KernelFigures], kind: Elementwise) -> KernelFigures:
    """The figures of ``kind``, or of its general kind where it was not measured."""
    return known[kind] if kind in known else known[kind.general]


GENERAL_KINDS = tuple(sorted(kind for kind in Elementwise if kind.general is kind))
"""The kinds of which a calibration has figures; it may have those of the others too."""


def read_elementwise(
    tree: object, where: str, sources: Mapping[str, str]
) -> dict[Elementwise, KernelFigures]:
    """Check the ``elementwise`` block: every kind, numbers above zero, sources that are known."""
    block = mapping(tree, where, ProfileError, keys=sorted(Elementwise))
    found = {}
    given = (Elementwise(name) for name in block)
    for kind in (*GENERAL_KINDS, *(kind for kind in given if kind not in GENERAL_KINDS)):
        at = f"{where}.{kind}"
        entry = mapping(
            block.get(kind), at, ProfileError, keys=[f.name for f in fields(KernelFigures)]
        )
        low, value, high = (positive(entry, key, at) for key in ("low", "efficiency", "high"))
        _ordered(low, value, high, at)
        found[kind] = KernelFigures(
            kernels=whole(entry.get("kernels"), f"{at}.kernels", ProfileError),
            traffic=positive(entry, "traffic", at),
            efficiency=value,
            low=low,
            high=high,
            source=_source(entry, at, sources),
            start_s=positive(entry, "start_s", at) if "start_s" in entry else None,
        )
    return found


def read_dispatch(tree: object, where: str, sources: Mapping[str, str]) -> Dispatch:
    """Check the ``dispatch`` block."""
    names = [f.name for f in fields(Dispatch)]
    block = mapping(tree, where, ProfileError, keys=names)
    found = {}
    for name in names:
        at = f"{where}.{name}"
        entry = mapping(block.get(name), at, ProfileError, keys=[f.name for f in fields(Ranged)])
        value, low, high = (positive(entry, key, at) for key in ("value", "low", "high"))
        _ordered(low, value, high, at)
        found[name] = Ranged(value, low, high, _source(entry, at, sources))
    return Dispatch(**found)


def default_eager() -> tuple[dict[Elementwise, KernelFigures], Dispatch]:
    """The figures that hold where a device has none of its own, from ``elementwise.yaml``."""
    tree = yaml_tree(text_of(files("aim_cost.timing") / "elementwise.yaml"))
    return (
        read_elementwise(tree["elementwise"], "elementwise.yaml: elementwise", tree["sources"]),
        read_dispatch(tree["dispatch"], "elementwise.yaml: dispatch", tree["sources"]),
    )


def positive(tree: Mapping[str, Any], key: str, where: str) -> float:
    """Return a finite number above zero; raise ProfileError otherwise."""
    value = tree.get(key)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 < value < 1e21:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise ProfileError(
        f"{where}.{key}",
        expected="a finite number above zero",
        got=value,
        fix="Write plain digits or 2.5e-6.",
    )


def _ordered(low: float, value: float, high: float, where: str) -> None:
    if not low <= value <= high:
        raise ProfileError(
            where, expected="low <= value <= high", got=(low, value, high), fix="Correct the range."
        )


def _source(entry: Mapping[str, Any], where: str, sources: Mapping[str, str]) -> str:
    key = entry.get("source")
    if isinstance(key, str) and key in sources:
        return sources[key]
    raise ProfileError(
        f"{where}.source",
        expected="a key of sources",
        got=key,
        fix=f"Add it under sources; known: {', '.join(sources)}.",
    )
