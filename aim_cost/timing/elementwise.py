"""What is not a matrix product: elementwise kernels as transformers runs them, and the host."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

import yaml

from aim_cost.checks import mapping, whole
from aim_cost.errors import ProfileError
from aim_cost.ops.formulas import IMPORTANCE_ROWS
from aim_cost.ops.op import Count, Op

_KIND_OF = {
    "input_norm": "rms_norm",
    "post_attention_norm": "rms_norm",
    "final_norm": "rms_norm",
    "layer_norm1": "layer_norm",
    "layer_norm2": "layer_norm",
    "post_layernorm": "layer_norm",
    "rotary": "rotary",
    "silu": "activation",
    "gate_mul": "activation",
    "activation": "activation",
    "gelu": "activation",
    "attention_add": "add",
    "mlp_add": "add",
    "position_embedding": "add",
    "softmax": "softmax",
    "importance": "importance",
    "normalise": "reduction",
    "best": "reduction",
    "average": "reduction",
    "tower_add": "add",
}

# kinds of ops that a measurement tells apart from the others of their kind
_OWN_KINDS = (
    *("silu", "gate_mul", "activation", "gelu", "position_embedding"),
    *("embed_tokens", "scatter_visual", "cache_append", "gather", "bilinear"),
    *("importance", "normalise", "best", "average", "tower_add"),
)


def elementwise_kind(name: str) -> str:
    """The kind that prices an op of this name; what is in no list is a ``copy``."""
    return _KIND_OF.get(name) or _KIND_OF.get(_base(name), "copy")


def measured_kind(op: Op) -> str:
    """The kind under which an op is measured: finer, where ops of a kind are other kernels.

    The hidden states of a vision tower lie channel by channel, as its convolution leaves them.
    """
    base, kind = _base(op.name), elementwise_kind(op.name)
    if kind == "add" and op.phase == "vision.tower" and base not in _OWN_KINDS:
        return "tower_add"
    return base if base in _OWN_KINDS else kind


def general_kind(kind: str) -> str:
    """The kind whose figures hold for a finer one that was not measured."""
    return kind if kind in KINDS else _KIND_OF.get(kind, "copy")


def op_parts(op: Op) -> Count:
    """How often the kernels of an op run: the importance score takes one block after another."""
    return -(-op.shape["tokens"] // IMPORTANCE_ROWS) if op.name == "importance" else 1


def _base(name: str) -> str:
    return name.rstrip("_0123456789")


@dataclass(frozen=True)
class Ranged:
    """A number with its 90 % range and its source."""

    value: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Elementwise:
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


KINDS = tuple(sorted({*_KIND_OF.values(), "copy"}))
MEASURED_KINDS = tuple(sorted({*KINDS, *_OWN_KINDS}))


def read_elementwise(
    tree: object, where: str, sources: Mapping[str, str]
) -> dict[str, Elementwise]:
    """Check the ``elementwise`` block: every kind, numbers above zero, sources that are known."""
    block = mapping(tree, where, ProfileError, keys=MEASURED_KINDS)
    found = {}
    for kind in (*KINDS, *(name for name in block if name not in KINDS)):
        at = f"{where}.{kind}"
        entry = mapping(
            block.get(kind), at, ProfileError, keys=[f.name for f in fields(Elementwise)]
        )
        low, value, high = (positive(entry, key, at) for key in ("low", "efficiency", "high"))
        _ordered(low, value, high, at)
        found[kind] = Elementwise(
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


def default_eager() -> tuple[dict[str, Elementwise], Dispatch]:
    """The figures that hold where a device has none of its own, from ``eager.yaml``."""
    text = (files("aim_cost.timing") / "elementwise.yaml").read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    return (
        read_elementwise(tree["elementwise"], "eager.yaml: elementwise", tree["sources"]),
        read_dispatch(tree["dispatch"], "eager.yaml: dispatch", tree["sources"]),
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
        fix="Write plain digits or 2.5e-6 (YAML reads 25e-7 as text).",
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
