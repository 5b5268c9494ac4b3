"""Quantization: the layout of a checkpoint's quantised matrices, read from quantization_config.

Bytes alone depend on it. Sources of the layouts: AutoAWQ's WQLinear_GEMM, AutoGPTQ's QuantLinear,
bitsandbytes 0.50, where they were measured; of what is converted: transformers 5.24.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from aim_cost.checks import sequence
from aim_cost.errors import SpecError
from aim_cost.models.config import MOST_SIZE, Section, bounded
from aim_cost.models.linear import Linear

_WAY_OUT = "Remove quantization_config to price the model in --dtype."
_SCALE_BYTES = 2  # float16
_INDEX_BYTES = 4  # int32
_WORD_BITS = 32  # the words that weights are packed into
_FLOAT32_BYTES = 4
_BLOCK = 64  # weights with one scale in bitsandbytes
_NESTED_BLOCK = 256  # scales with one scale of their own
_HEAD = "lm_head"


@dataclass(frozen=True)
class Quantization(ABC):
    """A method with its settings.

    Args: skipped, paths of modules that stay as they are, whole names between dots.
    """

    unpacks: ClassVar[bool] = True
    """Whether a matrix is laid out in the width of the activations to be multiplied."""

    skipped: tuple[str, ...]

    @property
    @abstractmethod
    def label(self) -> str:
        """The method and its width, for people."""

    def converts(self, linear: Linear) -> bool:
        """Whether ``linear`` is quantised."""
        return not any(_holds(path, name) for path in linear.paths for name in self.skipped)

    def require_fit(self, linears: Iterable[Linear]) -> None:
        """Raises: SpecError for one of ``linears`` that the method converts and cannot hold."""
        for linear in filter(self.converts, linears):
            self.matrix_bytes(linear)

    @abstractmethod
    def matrix_bytes(self, linear: Linear) -> int:
        """Bytes of the matrix of ``linear``, its bias left out. Raises: SpecError."""


@dataclass(frozen=True)
class Awq(Quantization):
    """Bytes of 4-bit weights, with a 16-bit scale and a 4-bit zero for each group of inputs."""

    group_size: int | None

    @property
    def label(self) -> str:
        return "AWQ, 4 bits"

    def matrix_bytes(self, linear: Linear) -> int:
        size = self.group_size or linear.inputs
        _require_multiple(linear, linear.inputs, size, "group_size")
        _require_multiple(linear, linear.outputs, _WORD_BITS // 4, "bits")
        groups = linear.inputs // size
        return linear.weights // 2 + groups * (linear.outputs // 2 + _SCALE_BYTES * linear.outputs)


@dataclass(frozen=True)
class Gptq(Quantization):
    """Bytes of ``bits``-bit weights, with a scale and a zero for each group, and its indices.

    Decoder layers alone are quantised. Args: modules, of a layer; None for all.
    """

    bits: int
    group_size: int | None
    modules: tuple[str, ...] | None

    @property
    def label(self) -> str:
        return f"GPTQ, {self.bits} bits"

    def converts(self, linear: Linear) -> bool:
        named = self.modules is None or any(_holds(linear.paths[0], m) for m in self.modules)
        return named and linear.paths[0].startswith("model.language_model.layers.")

    def matrix_bytes(self, linear: Linear) -> int:
        for side in (linear.inputs, linear.outputs):
            _require_multiple(linear, side, _WORD_BITS, "bits")
        groups = -(-linear.inputs // (self.group_size or linear.inputs))
        packed = self.bits * (linear.weights + groups * linear.outputs) // 8
        return packed + _SCALE_BYTES * groups * linear.outputs + _INDEX_BYTES * linear.inputs


@dataclass(frozen=True)
class FourBit(Quantization):
    """Bytes of bitsandbytes nf4 or fp4: two weights a byte, a scale a block, a table of 16 values.

    Args: nested, whether the scales are quantised too.
    """

    nested: bool

    @property
    def label(self) -> str:
        return "bitsandbytes, 4 bits"

    def matrix_bytes(self, linear: Linear) -> int:
        blocks = -(-linear.weights // _BLOCK)
        scales = _FLOAT32_BYTES * blocks
        if self.nested:  # scales of a byte; their own scales, table and offset
            scales = blocks + _FLOAT32_BYTES * (-(-blocks // _NESTED_BLOCK) + 256 + 1)
        return -(-linear.weights // 2) + scales + _FLOAT32_BYTES * 16


@dataclass(frozen=True)
class EightBit(Quantization):
    """Bytes of bitsandbytes int8: a byte for each weight, a scale for each output."""

    unpacks: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return "bitsandbytes, 8 bits"

    def matrix_bytes(self, linear: Linear) -> int:
        return linear.weights + _FLOAT32_BYTES * linear.outputs


def read_quantization(root: Section, *others: Section) -> Quantization | None:
    """The method of a whole config, None where it has none; ``others``: its other sections.

    Raises: SpecError for a method or a layout that is not counted here.
    """
    for section in (root, *others):
        for name in ("quantization_config", "compression_config"):
            nested = section.name or name == "compression_config"
            if nested and section.values.get(name) is not None:
                raise SpecError(
                    section.where(name),
                    expected="quantization_config at the root, or none",
                    got="one",
                    fix=_WAY_OUT.replace("quantization_config", name),
                )
    if root.values.get("quantization_config") is None:
        return None
    config = root.section("quantization_config", {})
    method = config.values.get("quant_method")
    if method is None and {"load_in_4bit", "load_in_8bit"} & config.values.keys():
        method = "bitsandbytes"
    if not isinstance(method, str) or method not in _READERS:
        raise SpecError(
            config.where("quant_method"),
            expected=f"one whose bytes are counted: {', '.join(_READERS)}",
            got=repr(method),
            fix=_WAY_OUT,
        )
    return _READERS[method](config)


def _awq(config: Section) -> Awq:
    _require(config, "bits", (4,), 4)
    _require(config, "format", ("gemm",), "gemm")
    _require(config, "version", ("gemm",), "gemm")
    return Awq((_HEAD, *_names(config, "modules_to_not_convert")), _group_size(config))


def _gptq(config: Section) -> Gptq:
    _require(config, "lm_head", (False,), False)
    _require(config, "dynamic", ({},), {})
    for name in ("format", "checkpoint_format"):
        _require(config, name, ("gptq", "gptq_v2"), "gptq")
    _require(config, "bits", (2, 3, 4, 8), None)
    given, where = config.values.get("modules_in_block_to_quantize"), "modules_in_block_to_quantize"
    modules = None
    if given is not None:
        lists = sequence(given, config.where(where), SpecError)
        flat = [n for part in lists for n in (part if isinstance(part, list | tuple) else (part,))]
        modules = tuple(_name(name, config.where(where)) for name in flat)
    return Gptq((), config.values["bits"], _group_size(config), modules)


def _bitsandbytes(config: Section) -> FourBit | EightBit:
    four, eight = (
        name in config.values and config.flag(name) for name in ("load_in_4bit", "load_in_8bit")
    )
    if four == eight:
        raise SpecError(
            config.where("load_in_4bit, load_in_8bit"),
            expected="one of them true",
            got="both" if four else "neither",
            fix=_WAY_OUT,
        )
    given = config.values.get("llm_int8_skip_modules")
    skipped = (_HEAD,) if given is None else _names(config, "llm_int8_skip_modules")
    if eight:
        return EightBit(skipped)
    nested = config.values.get("bnb_4bit_use_double_quant") is not None
    return FourBit(skipped, nested and config.flag("bnb_4bit_use_double_quant"))


_READERS: dict[str, Callable[[Section], Quantization]] = {
    "awq": _awq,
    "gptq": _gptq,
    "bitsandbytes": _bitsandbytes,
}


def _require(config: Section, key: str, valid: Iterable[object], default: object) -> None:
    """Raises: SpecError for a field that is none of ``valid``; null is the default."""
    value = config.values.get(key)
    value = default if value is None else value
    lower = value.lower() if isinstance(value, str) else value
    if any(lower == v and type(lower) is type(v) for v in valid):
        return
    shown = ", ".join(str(v) for v in valid)
    raise SpecError(
        config.where(key),
        expected=f"one whose bytes are counted: {shown}",
        got=repr(value),
        fix=_WAY_OUT,
    )


def _group_size(config: Section) -> int | None:
    """Inputs that share a scale; None where all do (-1)."""
    value = config.values.get("group_size")
    if isinstance(value, int) and value == -1:
        return None
    return bounded(128 if value is None else value, config.where("group_size"), MOST_SIZE)


def _names(config: Section, key: str) -> tuple[str, ...]:
    given, where = config.values.get(key), config.where(key)
    return tuple(
        _name(n, where) for n in sequence([] if given is None else given, where, SpecError)
    )


def _name(value: object, where: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[\w-]+(\.[\w-]+)*", value):
        return value
    raise SpecError(
        where, expected="names of modules, no patterns", got=value, fix="Name the modules in full."
    )


def _holds(path: str, name: str) -> bool:
    """Whether ``name`` is a run of whole names in ``path``: "visual" in "model.visual.blocks"."""
    return f".{name}." in f".{path}."


def _require_multiple(linear: Linear, side: int, divisor: int, field: str) -> None:
    """Raises: SpecError for a ``side`` of a matrix that does not fill groups or words."""
    if side % divisor:
        raise SpecError(
            f"quantization_config.{field}",
            expected=f"a multiple of {divisor} as the side of {linear.paths[0]}",
            got=side,
            fix=f"Name what is not quantised in modules_to_not_convert. {_WAY_OUT}",
        )
