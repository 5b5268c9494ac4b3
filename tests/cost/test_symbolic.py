"""Closed forms beside the estimate: equal where nothing is rounded, close where it is."""

import json
import subprocess
import sys

import pytest
import sympy

from aim_cost import Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_cost.ops.formulas import IMPORTANCE_ROWS
from aim_cost.sweeps import closed_forms as symbolic
from aim_cost.sweeps.closed_forms import PARTS, D, L, N, T, closed_form, l1, p, r, v, w
from aim_cost.sweeps.symbols import B, F, n, t

MODELS = [load_model_spec(f"llava-onevision-qwen2-{size}") for size in ("0.5b", "7b")]
H100 = load_hardware("h100-sxm")
RATIO = sympy.Rational


def price(model, schedule, frames=7, text=100, batch=1):
    return estimate(model, Workload(text, frames=frames, batch=batch), schedule, H100)


def value(part, model, frames=7, text=100, batch=1, retention=1, passes=0, prune=None):
    first, span = prune or (model.text.num_hidden_layers - 1, 1)
    newline = {N: model.newline_tokens}
    numbers = {F: frames, T: text, B: batch, t: model.frame_tokens, w: 2, r: retention, p: passes}
    form = closed_form(part).of(
        symbolic.model_values(model) | numbers | {l1: first, D: span, v: frames * t * r + N}
    )
    return form.expression.subs(newline).subs(numbers)


def expected(result, part):
    if part == "kv":
        return result.memory.kv_cache_bytes
    return result.flops if part == "total" else result.phase(part).flops


@pytest.mark.parametrize("part", ["llm", "vision", "merge", "importance", "kv", "total"])
@pytest.mark.parametrize("model", MODELS, ids=["0.5b", "7b"])
def test_equal_to_the_estimate_where_nothing_is_rounded(model, part):
    """7 frames of 49 tokens and a newline: 344 tokens, an eighth of which is whole.

    Where tokens are scored, once, 168 more: two blocks of rows.
    """
    text, steps = (168, 2) if part in ("importance", "total") else (100, 8)
    for batch in (1, 3):
        aim = price(
            model, Schedule.parse(f"merge 0.25, prune linear:14:{14 + steps}"), 7, text, batch
        )
        found = value(part, model, 7, text, batch, RATIO(1, 4), passes=2, prune=(14, steps))
        assert found == expected(aim, part)
        assert value(part, model, batch=batch) == expected(
            price(model, Schedule(), batch=batch), part
        )


@pytest.mark.parametrize("part", ["llm", "kv", "total"])
def test_close_to_the_estimate_where_tokens_are_rounded(part):
    model = MODELS[1]
    result = price(model, Schedule.parse("merge frame:58, prune linear:5:18"), frames=32)
    found = value(part, model, frames=32, retention=RATIO(58, 196), passes=2, prune=(5, 13))
    assert float(found) == pytest.approx(expected(result, part), rel=2e-3)


def test_full_blocks_count_a_little_too_much():
    model, schedule = MODELS[1], Schedule.parse("merge 0.25, prune linear:5:18")
    result = price(model, schedule, frames=32)
    found = value("importance", model, frames=32, retention=RATIO(1, 4), passes=2, prune=(5, 13))
    most = len(result.trace.scored_layers) * IMPORTANCE_ROWS**2 // 8
    extra = (found - expected(result, "importance")) / (2 * 28 * (128 + 5))
    assert 0.2 * most < extra < most


@pytest.mark.parametrize("part", ["llm", "importance", "kv"])
@pytest.mark.parametrize("symbol", [r, F, T], ids=str)
def test_a_derivative_is_the_slope_of_the_estimate(part, symbol):
    """For squares the secant between two points is the slope half-way, but for rounding."""
    model, prune = MODELS[1], (14, 8)
    low, high = {
        r: ((0.25, 32, 100), (0.5, 32, 100)),
        F: ((0.25, 24, 100), (0.25, 40, 100)),
        T: ((0.25, 32, 32), (0.25, 32, 288)),  # a block of rows more
    }[symbol]
    ends = [
        expected(
            price(model, Schedule.parse(f"merge {ratio}, prune linear:14:22"), frames, text),
            part,
        )
        for ratio, frames, text in (low, high)
    ]
    step = {r: 0.25, F: 16, T: 256}[symbol]
    middle = dict(
        zip((r, F, T), ((a + b) / 2 for a, b in zip(low, high, strict=True)), strict=True)
    )
    numbers = symbolic.model_values(model) | {B: 1, t: 196, w: 2, l1: prune[0], D: prune[1]}
    slope = closed_form(part).derivative(symbol).subs(numbers).subs(v, F * t * r + N).subs(N, 1)
    found = slope.subs(middle | {t: 196})
    assert float(found) == pytest.approx((ends[1] - ends[0]) / step, rel=5e-3)


def test_a_layer_is_exact_for_any_number_of_tokens():
    model = MODELS[1]
    form = closed_form("layer").of(symbolic.model_values(model) | {B: 1})
    assert form.relaxed == ""
    graph = price(model, Schedule()).graph
    first = sum(op.flops for op in graph.phase("llm.layers") if op.layer == 0)
    tokens = 7 * 196 + 1 + 100
    assert form.expression.subs(n, tokens) == first
    assert form.derivative(n) == sympy.diff(form.expression, n).expand()


def test_every_symbol_is_explained():
    for part in PARTS:
        form = closed_form(part)
        used = form.expression.free_symbols.union(
            *(form.derivative(s).free_symbols for s in form.along)
        )
        assert used <= set(form.symbols), part
    assert L in closed_form("llm").symbols


def run(*arguments, status=0):
    command = [sys.executable, "-m", "aim_cost.cli", "symbolic", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


def test_text_fits_a_terminal_and_says_what_is_relaxed():
    text = run()
    assert max(map(len, text.splitlines())) <= 80
    for part in PARTS:
        assert f"{part} [" in text
    assert "d total / d r =" in text and "the retention ratio" in text


def test_json_can_be_read_back_by_sympy():
    (answer,) = json.loads(run("--part", "llm", "--model", MODELS[1].name, "--format", "json"))
    names = {symbol: sympy.Symbol(symbol) for symbol in answer["symbols"]}
    read = sympy.sympify(answer["text"], locals=names)
    assert read.subs({"B": 1, "T": 100, "v": 344, "l_1": 14, "D": 8}) == value(
        "llm", MODELS[1], retention=RATIO(1, 4), prune=(14, 8)
    )
    assert set(answer["derivatives"]) == {"r", "F", "T"}
    assert answer["definitions"]["v"]["text"] == "F*r*t + N"


def test_latex_has_balanced_braces():
    text = run("--part", "importance", "--format", "latex")
    assert text.count("{") == text.count("}")
    assert r"\[ \mathrm{importance} = " in text and r"\partial r" in text


def test_pooling_before_the_projector_and_no_newline():
    model = load_model_spec("llava-next-video-7b")
    for part in ("vision", "llm", "total"):
        assert value(part, model) == expected(price(model, Schedule()), part)


def test_unknown_parts_and_towers_without_a_closed_form_are_named():
    assert run("--part", "decode", status=2).startswith("error: part: expected one of")
    assert "SigLIP's or CLIP's" in run("--model", "qwen2.5-vl-7b", status=2)
