"""Closed forms as text, LaTeX and plain data."""

import textwrap
from typing import Any

import sympy

from aim_cost.sweeps.closed_forms import VISUAL_TOKENS, ClosedForm, v

_WIDTH = 80


def as_text(form: ClosedForm) -> str:
    """For a terminal of 80 columns; what is printed can be pasted into Python."""
    lines = _lines(f"{form.part} [{form.unit}] =", form.expression)
    if _needs_visual_tokens(form):
        lines += _lines(f"{v} =", VISUAL_TOKENS.rhs)
    for symbol in form.along:
        lines += _lines(f"d {form.part} / d {symbol} =", form.derivative(symbol))
    lines += ["", *(f"  {symbol!s:<5}{meaning}" for symbol, meaning in form.symbols.items())]
    return "\n".join([*lines, *_wrapped(_exactness(form), "  ")])


def as_latex(form: ClosedForm) -> str:
    """Equations for a paper, the symbols as a comment."""
    name = rf"\mathrm{{{form.part}}}"
    equations = [f"{name} = {sympy.latex(form.expression)}"]
    if _needs_visual_tokens(form):
        equations.append(sympy.latex(VISUAL_TOKENS))
    for symbol in form.along:
        left = rf"\frac{{\partial\,{name}}}{{\partial {sympy.latex(symbol)}}}"
        equations.append(f"{left} = {sympy.latex(form.derivative(symbol))}")
    notes = [f"% {form.part}, {form.unit}. {_exactness(form)}"]
    notes += [f"% {sympy.latex(symbol)}: {meaning}" for symbol, meaning in form.symbols.items()]
    return "\n".join([*notes, *(f"\\[ {equation} \\]" for equation in equations)])


def as_data(form: ClosedForm) -> dict[str, Any]:
    """Plain data; expressions as text that sympy reads, and as LaTeX."""
    return {
        "part": form.part,
        "unit": form.unit,
        **_both(form.expression),
        "derivatives": {str(symbol): _both(form.derivative(symbol)) for symbol in form.along},
        "definitions": {str(v): _both(VISUAL_TOKENS.rhs)} if _needs_visual_tokens(form) else {},
        "symbols": {str(symbol): meaning for symbol, meaning in form.symbols.items()},
        "relaxed": form.relaxed,
    }


def _both(expression: Any) -> dict[str, str]:
    return {"text": str(expression), "latex": sympy.latex(expression)}


def _needs_visual_tokens(form: ClosedForm) -> bool:
    return v in form.symbols


def _exactness(form: ClosedForm) -> str:
    return f"Relaxed: {form.relaxed}." if form.relaxed else "Exact."


def _lines(head: str, expression: Any) -> list[str]:
    return [head, *_wrapped(str(expression), "    ")]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    )
