"""Kind: the kind of kernels that an op runs, with the sizes that their time depends on."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import ClassVar, Self, TypeAlias

from aim_cost.ops.count import Count
from aim_cost.ops.formulas import IMPORTANCE_ITERATIONS, IMPORTANCE_ROWS


class _Kind:
    """The interface of all kinds, for those whose time depends only on the bytes of the op.

    Each also has a ``label``, its name in calibrations and kernel tables.
    """

    @property
    def sizes(self) -> tuple[Count, ...]:
        """The counts that the kind holds."""
        return ()

    def resized(self, sizes: tuple[Count, ...]) -> Self:
        """The same kind with other counts in the order of ``sizes``."""
        assert not sizes
        return self

    @property
    def parts(self) -> Count:
        """How often the kernels of an op run."""
        return 1

    @property
    def dims(self) -> tuple[Count, ...]:
        """The sizes that a time model takes besides the bytes: those of its form, or ``parts``."""
        return (self.parts,)


class Elementwise(_Kind, StrEnum):
    """Kernels bound by memory; the values are their names in calibrations and kernel tables."""

    RMS_NORM = "rms_norm"
    LAYER_NORM = "layer_norm"
    ROTARY = "rotary"
    ACTIVATION = "activation"
    ADD = "add"
    SOFTMAX = "softmax"
    COPY = "copy"  # one kernel that streams through memory, whatever it computes on the way
    IMPORTANCE = "importance"  # the kernels of Importance, for a block of rows
    REDUCTION = "reduction"
    SILU = "silu"
    GATE_MUL = "gate_mul"
    GELU = "gelu"
    POSITION_EMBEDDING = "position_embedding"
    TOWER_ADD = "tower_add"  # hidden states channel by channel, as a convolution leaves them
    EMBED_TOKENS = "embed_tokens"
    SCATTER_VISUAL = "scatter_visual"
    CACHE_APPEND = "cache_append"
    GATHER = "gather"
    BILINEAR = "bilinear"
    NORMALISE = "normalise"
    BEST = "best"
    AVERAGE = "average"

    @property
    def label(self) -> str:
        """The value, as a plain str."""
        return self.value

    @property
    def general(self) -> "Elementwise":
        """The kind whose figures hold where this one was not measured."""
        return _GENERAL.get(self, self)


_GENERAL = {
    Elementwise.SILU: Elementwise.ACTIVATION,
    Elementwise.GATE_MUL: Elementwise.ACTIVATION,
    Elementwise.GELU: Elementwise.ACTIVATION,
    Elementwise.POSITION_EMBEDDING: Elementwise.ADD,
    Elementwise.TOWER_ADD: Elementwise.ADD,
    Elementwise.EMBED_TOKENS: Elementwise.COPY,
    Elementwise.SCATTER_VISUAL: Elementwise.COPY,
    Elementwise.CACHE_APPEND: Elementwise.COPY,
    Elementwise.GATHER: Elementwise.COPY,
    Elementwise.BILINEAR: Elementwise.COPY,
    Elementwise.NORMALISE: Elementwise.REDUCTION,
    Elementwise.BEST: Elementwise.REDUCTION,
    Elementwise.AVERAGE: Elementwise.REDUCTION,
}


@dataclass(frozen=True)
class _Sized(_Kind):
    """A kind whose fields are counts."""

    @property
    def sizes(self) -> tuple[Count, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def resized(self, sizes: tuple[Count, ...]) -> Self:
        names = (field.name for field in fields(self))
        return replace(self, **dict(zip(names, sizes, strict=True)))

    @property
    def dims(self) -> tuple[Count, ...]:
        return self.sizes


@dataclass(frozen=True)
class Product(_Sized):
    """x[m, k] @ w[k, n]."""

    label: ClassVar[str] = "gemm"

    m: Count
    n: Count
    k: Count


@dataclass(frozen=True)
class BatchedProduct(_Sized):
    """x[batch, m, k] @ y[batch, k, n]; ``dims`` are those of one product of as many rows."""

    label: ClassVar[str] = "gemm"

    batch: Count
    m: Count
    n: Count
    k: Count

    @property
    def dims(self) -> tuple[Count, ...]:
        return self.batch * self.m, self.n, self.k


@dataclass(frozen=True)
class Attention(_Sized):
    """Fused self-attention of ``batch`` sequences of ``tokens``; ``head_dim`` elements a head."""

    tokens: Count
    batch: Count
    heads: Count
    key_value_heads: Count
    head_dim: Count


@dataclass(frozen=True)
class CausalAttention(Attention):
    """Each token attends to itself and to those before it."""

    label: ClassVar[str] = "causal_attention"


@dataclass(frozen=True)
class EncoderAttention(Attention):
    """Each token attends to all."""

    label: ClassVar[str] = "encoder_attention"


@dataclass(frozen=True)
class RowAttention(_Sized):
    """Fused attention of few ``queries``, bound by the reads of all tokens' keys and values.

    So its time depends only on the bytes.
    """

    label: ClassVar[str] = "row_attention"

    tokens: Count
    queries: Count

    @property
    def dims(self) -> tuple[Count, ...]:
        return (self.parts,)


@dataclass(frozen=True)
class Importance(_Sized):
    """AIM's score in torch, computed in ``parts`` blocks of rows."""

    label: ClassVar[str] = Elementwise.IMPORTANCE.value

    tokens: Count
    batch: Count
    heads: Count
    head_dim: Count

    @property
    def parts(self) -> Count:
        return -(-self.tokens // IMPORTANCE_ROWS)

    @property
    def dims(self) -> tuple[Count, ...]:
        return (self.parts,)


@dataclass(frozen=True)
class Steps(_Sized):
    """A loop of ``steps`` that each start ``kernels`` small copies, such as a greedy choice.

    Each step waits for the one before, so that each kernel costs its start, in any execution.
    """

    label: ClassVar[str] = Elementwise.COPY.value

    steps: Count
    kernels: Count

    @property
    def parts(self) -> Count:
        return self.steps * self.kernels

    @property
    def dims(self) -> tuple[Count, ...]:
        return (self.parts,)


@dataclass(frozen=True)
class FusedImportance(_Sized):
    """AIM's score by kernels that never write its matrix."""

    label: ClassVar[str] = "fused_importance"
    launches: ClassVar[int] = IMPORTANCE_ITERATIONS + 2
    """A pass over rows, the iterations, and the mean over heads."""

    tokens: Count
    batch: Count
    heads: Count
    key_value_heads: Count
    head_dim: Count


Kind: TypeAlias = (
    Elementwise
    | Product
    | BatchedProduct
    | CausalAttention
    | EncoderAttention
    | RowAttention
    | Importance
    | Steps
    | FusedImportance
)
