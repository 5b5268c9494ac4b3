"""Closed forms: FLOPs and KV-cache bytes of the op graph as sympy expressions.

The pieces are the ops of ``aim_cost.graph``, built from symbols and summed, nothing typed in again.
``closed_form`` adds the pieces up over a linear schedule, every layer computing all its tokens;
sweeps evaluate the pieces themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import sympy
from sympy.printing.pycode import PythonCodePrinter

from aim_cost.case.memory import kv_cache_bytes
from aim_cost.checks import one_of
from aim_cost.errors import SpecError
from aim_cost.models import decoder, vision
from aim_cost.models.model import ModelSpec
from aim_cost.ops import reduction
from aim_cost.ops.formulas import IMPORTANCE_ROWS
from aim_cost.ops.op import Op, OpGraph
from aim_cost.sweeps.symbols import TEXT, B, F, n, t

Expression: TypeAlias = Any
"""A sympy expression; sympy ships no types."""

T, L, w, p = sympy.symbols("T L w p", integer=True, positive=True)
r = sympy.Symbol("r", positive=True)
l1 = sympy.Symbol("l_1", integer=True, nonnegative=True)
D = sympy.Symbol("D", integer=True, positive=True)
v = sympy.Symbol("v", positive=True)
N = sympy.Symbol("N", integer=True, nonnegative=True)
_layers, _patches, _seen, _heads, _head_dim, _inner, _channels, _side, _features = sympy.symbols(
    "L_v N_p N_v h_v d_v I_v C s N_f", integer=True, positive=True
)
VISION = SimpleNamespace(
    hidden_size=_heads * _head_dim,
    intermediate_size=_inner,
    num_attention_heads=_heads,
    num_channels=_channels,
    patch_size=_side,
    patches=_patches,
    tokens=_seen,
    channel_major=True,  # FLOPs do not depend on it
    has_head=False,
)
"""A vision tower whose dims are symbols; same attributes as VisionSpec, but for the layers."""

MEANING = {
    n: "tokens entering a layer",
    v: "visual tokens entering the LLM, newline included",
    r: "retention ratio of merging",
    F: "frames of one prompt (Qwen's towers: pairs of frames)",
    N: "newline tokens of a video: 1 in LLaVA-OneVision, else 0",
    T: "text tokens, all kept",
    t: "tokens of a frame before merging",
    p: "merging passes: the least p with 2^-p <= r",
    B: "prompts of a batch",
    l1: "first layer (0-based) after which tokens leave; L - 1: no pruning",
    D: "l_2 - l_1, layers over which all visual tokens leave; 1: no pruning",
    L: "decoder layers",
    TEXT.hidden_size: "hidden size of the LLM",
    TEXT.intermediate_size: "width of the LLM's MLP",
    TEXT.num_attention_heads: "query heads",
    TEXT.num_key_value_heads: "key and value heads",
    TEXT.head_dim: "elements of a head",
    TEXT.vocab_size: "vocabulary, padding included",
    w: "bytes of an element",
    _layers: "layers of the vision tower",
    _patches: "patches of a frame",
    _seen: "tokens of a frame inside the vision tower",
    _features: "features of a frame that the projector takes",
    _heads: "heads of the vision tower",
    _head_dim: "elements of a head of the vision tower",
    _inner: "width of the vision tower's MLP",
    _channels: "channels of a pixel",
    _side: "side of a patch, pixels",
}
"""What each symbol stands for, in the order of printing."""

_ANY_WIDTH = 2  # FLOPs do not depend on it


def _flops(ops: Sequence[Op]) -> Expression:
    return OpGraph(tuple(ops)).flops


def _vision_flops() -> Expression:
    def tower(layers: int) -> Expression:
        tower = SimpleNamespace(**vars(VISION), num_hidden_layers=layers)
        return _flops(vision.tower_ops(tower, B * F, _ANY_WIDTH))

    projector = vision.projector_ops(
        VISION.hidden_size, TEXT.hidden_size, B * F * _features, _ANY_WIDTH
    )
    return tower(0) + _layers * (tower(1) - tower(0)) + _flops(projector)


LAYER_FLOPS = _flops(decoder.layer_ops(TEXT, B, n, n, "sdpa", _ANY_WIDTH))
"""FLOPs of a decoder layer that n tokens enter."""
LAST_LAYER_FLOPS = _flops(decoder.layer_ops(TEXT, B, n, 1, "sdpa", _ANY_WIDTH, queries=1))
"""FLOPs of a last layer that computes only what the logits of the last token need."""
HEAD_FLOPS = _flops(decoder.head_ops(TEXT, B, n, _ANY_WIDTH))
"""FLOPs of the logits of the last position."""
IMPORTANCE_FLOPS = _flops(
    reduction.importance_ops(None, B, n, TEXT.num_attention_heads, TEXT.head_dim, _ANY_WIDTH)
)
"""FLOPs of the importance score at a layer that n tokens enter."""
MERGE_PASS_FLOPS = _flops(reduction.merge_ops(B * F, (t, t - t // 2), TEXT.hidden_size, _ANY_WIDTH))
"""FLOPs of a merging pass over frames of t tokens, whatever it removes."""
VISION_FLOPS = _vision_flops()
"""FLOPs of the vision tower and the projector."""
KV_LAYER_BYTES = kv_cache_bytes(
    SimpleNamespace(text=TEXT),  # type: ignore[arg-type]
    SimpleNamespace(batch=B, attention_tokens=(n,)),  # type: ignore[arg-type]
    w,
)
"""Bytes of the KV cache of a layer that n tokens enter."""


def text_values(model: ModelSpec) -> dict[Expression, int]:
    """The dims of a model's LLM, for the symbols that stand for them."""
    text = model.text
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return {
        **{getattr(TEXT, name): getattr(text, name) for name in names},
        TEXT.head_dim: text.head_dim,
        TEXT.vocab_size: text.vocab_size,
        L: text.num_hidden_layers,
    }


def model_values(model: ModelSpec) -> dict[Expression, int]:
    """The dims of a model, vision tower and all.

    Raises: SpecError for a tower that has no closed form: Qwen's attend within windows, and
    SigLIP's pooling head is left out.
    """
    tower = model.vision
    if not tower.has_closed_form:
        raise SpecError(
            f"model {model.name}",
            expected="a tower of SigLIP's or CLIP's kind without a head: they have a closed form",
            got=tower.model_type,
            fix="Leave the model out, or count it with aim-cost predict.",
        )
    pooling = model.pooling
    pooled = pooling is not None and pooling.before_projector
    return text_values(model) | {
        N: model.newline_tokens,
        _layers: tower.num_hidden_layers,
        _patches: tower.patches,
        _seen: tower.tokens,
        _heads: tower.num_attention_heads,
        _head_dim: tower.hidden_size // tower.num_attention_heads,
        _inner: tower.intermediate_size,
        _channels: tower.num_channels,
        _side: tower.patch_size,
        _features: model.frame_tokens if pooled else model.image_tokens,
    }


def function(
    expression: Expression, arguments: Sequence[Expression], values: dict[Expression, int]
) -> Callable[..., Any]:
    """The expression as a function of ints or of integer arrays; it stays in whole numbers.

    Args: arguments, symbols in the order of the function's; values, of all other symbols.
    """
    known = sympy.expand(sympy.sympify(expression).subs(values))
    if known.free_symbols and not known.has(sympy.floor):
        known = sympy.horner(known, wrt=arguments[0])
    return whole_numbers(arguments, known)


class _Printer(PythonCodePrinter):  # type: ignore[misc]
    """Floors as whole divisions: exact for any int, and for arrays of them."""

    def _print_floor(self, expression: Expression) -> str:
        over, under = (self._print(part) for part in expression.args[0].as_numer_denom())
        return f"(({over}) // ({under}))"


def whole_numbers(arguments: Sequence[Expression], expressions: Any) -> Callable[..., Any]:
    """Expressions as one function of ints or of integer arrays; floors stay in whole numbers."""
    printer, modules = _Printer, ["math"]
    found: Callable[..., Any] = sympy.lambdify(
        arguments, expressions, modules=modules, printer=printer, cse=True
    )
    return found


@dataclass(frozen=True)
class ClosedForm:
    """A quantity of one prefill under a linear schedule.

    Args:
        part: one of PARTS.
        unit: FLOPs or bytes.
        expression: in the symbols of MEANING.
        along: symbols that derivatives are taken along.
        relaxed: what was given up to reach a closed form; empty where it is exact.
    """

    part: str
    unit: str
    expression: Expression
    along: tuple[Expression, ...]
    relaxed: str = ""

    @property
    def symbols(self) -> dict[Expression, str]:
        """The symbols in the expression and what they mean."""
        used = self.expression.free_symbols | set(self.along)
        used |= _VISUAL.free_symbols if v in used else set()
        return {symbol: meaning for symbol, meaning in MEANING.items() if symbol in used}

    def derivative(self, symbol: Expression) -> Expression:
        """d expression / d symbol; v moves with r and F."""
        direct = sympy.diff(self.expression, symbol)
        through = sympy.diff(self.expression, v) * sympy.diff(_VISUAL, symbol)
        return tidy(direct + through)

    def of(self, values: dict[Expression, Any]) -> "ClosedForm":
        """The same with numbers for some symbols."""
        expression, along = tidy(self.expression.subs(values)), self.along
        return ClosedForm(self.part, self.unit, expression, along, self.relaxed)


_VISUAL = r * F * t + N
VISUAL_TOKENS = sympy.Eq(v, _VISUAL, evaluate=False)
"""v in terms of the retention ratio and the frames."""

_ROUNDING = (
    "counts of tokens are real numbers: int() of the schedule is dropped, and the retention ratio "
    "r is continuous; l_1 + D <= L"
)
_BLOCKS = (
    f"; AIM's score takes full blocks of {IMPORTANCE_ROWS} rows, at most {IMPORTANCE_ROWS**2 // 8} "
    "entries of a head's matrix too many at a layer"
)
_PASSES = "; merging passes halve exactly and their number p is held fixed along r"


def _over_layers(piece: Expression) -> Expression:
    """The sum of a piece over all layers: l1 + 1 with all tokens, a ramp, then text alone."""
    before, after = piece.subs(n, v + T), piece.subs(n, T)
    return (l1 + 1) * before + _over_ramp(piece, 1, D - 1) + (L - l1 - D) * after


def _over_ramp(piece: Expression, first: Expression, last: Expression) -> Expression:
    """The sum over steps of the ramp; the step before the first has all visual tokens, 0."""
    j = sympy.Symbol("j", integer=True)
    return sympy.summation(piece.subs(n, v * (1 - j / D) + T), (j, first, last))


def _continuous(piece: Expression) -> Expression:
    """The piece without its floors."""
    return piece.replace(sympy.floor, lambda value: value)


def _over_passes() -> Expression:
    """All merging passes, each frame halved in each."""
    i = sympy.Symbol("i", integer=True)
    halved = _continuous(MERGE_PASS_FLOPS).subs(t, t / 2**i)
    return sympy.summation(sympy.expand(halved), (i, 0, p - 1))


def _llm() -> ClosedForm:
    flops = _over_layers(LAYER_FLOPS) + HEAD_FLOPS
    return ClosedForm("llm", "FLOPs", tidy(flops), (r, F, T), _ROUNDING)


def _importance() -> ClosedForm:
    # a layer ranks its tokens if some of the visual tokens, but not all, leave after it
    flops = tidy(_over_ramp(_continuous(IMPORTANCE_FLOPS), 0, D - 2))
    return ClosedForm("importance", "FLOPs", flops, (r, F, T), _ROUNDING + _BLOCKS)


def _kv() -> ClosedForm:
    return ClosedForm("kv", "bytes", tidy(_over_layers(KV_LAYER_BYTES)), (r, F, T), _ROUNDING)


def _merge() -> ClosedForm:
    relaxed = "merging passes halve exactly; their number p steps with r"
    return ClosedForm("merge", "FLOPs", tidy(_over_passes()), (F,), relaxed)


def _total() -> ClosedForm:
    parts = (_VISION.expression, _over_passes(), _llm().expression, _importance().expression)
    return ClosedForm("total", "FLOPs", tidy(sum(parts)), (r, F, T), _ROUNDING + _PASSES + _BLOCKS)


_VISION = ClosedForm("vision", "FLOPs", sympy.factor(VISION_FLOPS), (F,))
_MAKERS: dict[str, Callable[[], ClosedForm]] = {
    "layer": lambda: ClosedForm("layer", "FLOPs", sympy.factor(LAYER_FLOPS), (n,)),
    "last-layer": lambda: ClosedForm("last-layer", "FLOPs", tidy(LAST_LAYER_FLOPS), (n,)),
    "llm": _llm,
    "vision": lambda: _VISION,
    "merge": _merge,
    "importance": _importance,
    "kv": _kv,
    "total": _total,
}
PARTS = tuple(_MAKERS)


@cache
def closed_form(part: str) -> ClosedForm:
    """The closed form of a part of the prefill. Raises SpecError that lists PARTS."""
    return _MAKERS[one_of(part, PARTS, "part", SpecError)]()


def tidy(expression: Expression) -> Expression:
    """Collect by tokens, with factored coefficients: what a reader compares with the code."""
    return sympy.collect(sympy.expand(expression), (v, T, n, F, r), sympy.factor)
