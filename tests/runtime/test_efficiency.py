"""The efficiency table: a row for each method, what ran beside what was predicted."""

import re
from io import StringIO

import pytest
from rich.console import Console

from aim_cost import Case, Workload
from aim_cost.errors import ScheduleError
from aim_cost.methods import METHODS
from aim_cost.schedules.executed import why_not_run
from aim_cost.studies.compare import compare
from aim_cost.units import giga, mega, milli
from aim_runtime.errors import PatchError
from aim_runtime.measurement import measure as module
from aim_runtime.measurement.clock import ClockRecorder
from aim_runtime.measurement.row_file import read_rows
from aim_runtime.models.load import load
from aim_runtime.validation.efficiency_request import TableRequest
from aim_runtime.validation.efficiency_run import efficiency_table
from aim_runtime.validation.efficiency_text import (
    efficiency_latex,
    efficiency_markdown,
    efficiency_report,
)
from tests.runtime.models import tiny_llava_15
from tests.runtime.support import tiny_llava

VIDEO = Workload(text_tokens=11, frames=5)
EVERY = ",".join("tome:r=2" if name == "tome" else name for name in METHODS)
"""All methods, with parameters that a small tower allows."""


def table_of(loaded, workload, *methods, equal=None, budget=None, hardware=None, **options):
    request = TableRequest(*methods, equal=equal, budget=budget, hardware=hardware)
    return efficiency_table(loaded, workload, request, **options)


@pytest.fixture(scope="module")
def deep():
    """A model with enough layers for the stages of most methods."""
    config = tiny_llava(layers=12).config.to_dict()
    return load(config, "cpu", "float32", random_weights=True)


@pytest.fixture(scope="module")
def every(deep):
    return table_of(deep, VIDEO, EVERY, new_tokens=2, repeats=1)


@pytest.fixture
def never(tmp_path):
    """A schedule that nothing here can run: its order of tokens was found elsewhere."""
    path = tmp_path / "never_runs.yaml"
    path.write_text("prune: {ratios: [1, 0.5, 0.25], importance: offline}\n")
    return str(path)


def test_each_method_has_a_row_and_what_ran_cost_what_was_predicted(deep, every):
    none, *rows = every.rows
    assert none.label == "none" and none.ran
    assert [row.executed.entry.name for row in rows] == list(METHODS)
    case = Case(deep.spec, VIDEO, "a100-sxm4-80gb", every.case.execution)
    ran = 0
    for row in every.rows:
        schedule = row.executed.entry.schedule
        if schedule is None or why_not_run(schedule):
            assert row.reason and row.ran is None, row.label
            continue
        predicted, ran = case.price(schedule), ran + 1
        assert row.flops == sum(row.measured.flops.values()) == predicted.flops, row.label
        assert row.measured.tokens_per_layer == predicted.trace.attention_tokens
        assert row.is_as_predicted and not row.reason
        assert row.kv_cache_bytes == predicted.memory.kv_cache_bytes
    assert ran > 5


def test_rows_say_what_ran_and_how_fast(every):
    for row in every.to_rows():
        if not row["ran"]:
            assert row["ttft_s"] is row["speedup"] is row["tpot_s"] is None
            continue
        assert row["end_to_end_s"] == pytest.approx(row["ttft_s"] + row["tpot_s"])
        assert row["speedup"] == every.rows[0].ttft_s / row["ttft_s"]
        visual = [tokens - 11 for tokens in row["tokens_per_layer"]]
        assert row["visual_tokens"] == visual[0]
        assert row["average_visual_tokens"] == pytest.approx(sum(visual) / 12)
        assert row["llm_flops"] == row["executed.flops"]
        assert "predicted.ttft_s" not in row  # no device was named


def test_a_method_that_does_not_run_is_priced_and_says_why(loaded, never):
    table = table_of(loaded, VIDEO, f"{never},prunevid", repeats=1, new_tokens=1)
    _, priced, unpriced = table.to_rows()
    assert (priced["ran"], unpriced["ran"]) == (False, False)
    assert "beforehand" in priced["reason"] and priced["flops"] > 0
    assert "a layer up to 6" in unpriced["reason"] and unpriced["flops"] is None
    text = efficiency_markdown(table)
    assert "never\\_runs°" in text and "never\\_runs: what was fitted" in text
    assert "prunevid: prunevid.k: expected a layer up to 6" in text


def test_a_count_that_differs_is_marked(loaded, monkeypatch):
    original = module.count_flops

    def one_more(*arguments, **options):
        flops, tokens = original(*arguments, **options)
        return {**flops, "llm.layers": flops["llm.layers"] + 1}, tokens

    monkeypatch.setattr(module, "count_flops", one_more)
    table = table_of(loaded, VIDEO, "fastv", repeats=1, new_tokens=1)
    assert [row.is_as_predicted for row in table.rows] == [False, False]
    text = efficiency_markdown(table)
    assert "fastv≠" in text and "in 0 of 2 rows; not in those with ≠" in text
    assert "Differs: fastv: llm.layers: predicted" in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("broken"), "RuntimeError: broken"),
        (PatchError("here", expected="this", got="that", fix="Do so."), "here: expected this"),
    ],
)
def test_a_run_that_fails_is_a_row(loaded, order, error, said):
    order.fail["none"] = error
    table = table_of(loaded, VIDEO, "fastv", repeats=1, new_tokens=2)
    none, fastv = table.to_rows()
    assert said in none["reason"] and none["flops"] and not none["ran"]
    assert fastv["ran"] and fastv["speedup"] is None


def test_an_answer_is_timed_after_its_prefill(loaded, monkeypatch):
    """A clock that ticks once a look: TPOT is the decoding's share, no part of the prefill."""
    seconds = iter([{"llm.layers": 5.0, "decode": 6.0}, {"llm.layers": 7.0, "decode": 4.0}])

    class Recorder(ClockRecorder):
        def seconds(self):
            assert "decode" in super().seconds()
            return next(seconds)

    monkeypatch.setattr(module, "recorder_for", lambda device: Recorder())
    lengths, forward = [], loaded.model.forward

    def watched(*args, **kwargs):
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(loaded.model, "forward", watched)
    (row,) = module.measure(loaded, VIDEO, "none", repeats=2, warmup=0, answer_tokens=3)
    assert (row.ttft_s, row.tpot_s, row.end_to_end_s) == (6.0, 5.0 / 2, 11.0)
    prompt = 5 * 9 + 1 + 11
    assert lengths == [prompt, 1, 1] * 2
    assert row.tokens_per_layer == (prompt,) * 6


def markdown_lines(text):
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in rows]
    return [[re.sub(r"\\(.)", r"\1", cell) for cell in line] for line in cells if ":--" not in line]


def latex_lines(text):
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0].replace("\\midrule\n", "")
    rows = [line.removesuffix(r" \\") for line in body.strip().splitlines()]
    lines = [re.split(r"(?<!\\)&", row) for row in rows]
    plain = [[cell.strip().replace(r"$^\circ$", "°") for cell in line] for line in lines]
    stacked = re.compile(r"\\shortstack\{(.*)\\\\(.*)\}")
    return [[stacked.sub(r"\1 \2", cell).replace("\\", "") for cell in line] for line in plain]


def test_markdown_and_latex_hold_the_numbers_of_the_rows(deep, never):
    table = table_of(
        *(deep, VIDEO, f"aim,fastv,{never}", "fastv"),
        hardware="cpu-generic",
        new_tokens=3,
        repeats=1,
    )
    head, *lines = markdown_lines(efficiency_markdown(table))
    latex = efficiency_latex(table)
    assert latex_lines(latex) == [head, *lines]
    assert latex.count("{") == latex.count("}") and r"never\_runs$^\circ$ & " in latex
    columns = {
        "tokens mean": ("average_visual_tokens", float),
        "tokens entering": ("visual_tokens", float),
        "KV MB": ("kv_cache_bytes", mega),
        "peak GB": ("peak_memory_bytes", giga),
        "fastv GMACs": ("fastv.flops", lambda flops: giga(flops / 2)),
        "LLM GFLOPs": ("llm_flops", giga),
        "all GFLOPs": ("flops", giga),
        "prefill ms": ("ttft_s", milli),
        "predicted ms": ("predicted.ttft_s", milli),
        "prefill speed-up": ("speedup", float),
        "TPOT ms": ("tpot_s", milli),
        "E2E s": ("end_to_end_s", float),
        "E2E speed-up": ("end_to_end.speedup", float),
    }
    assert head == ["", *columns]
    for line, row in zip(lines, table.to_rows(), strict=True):
        assert line[0].rstrip("°") == row["label"]
        for cell, (key, unit) in zip(line[1:], columns.values(), strict=True):
            decimals = len(cell.partition(".")[2])
            value = None if row[key] is None else round(unit(row[key]), decimals)
            assert cell == "-" if value is None else float(cell) == value, key


def test_the_terminal_has_80_columns_and_no_figure_is_cut(deep, tmp_path):
    path = tmp_path / "a_schedule_of_mine.yaml"  # a name that would take the place of figures
    path.write_text("prune: {ratios: [1, 0.5], importance: text-attention}\n")
    table = table_of(
        *(deep, VIDEO, f"aim,pact,{path}"),
        hardware="cpu-generic",
        new_tokens=2,
        repeats=1,
    )
    page = Console(file=StringIO(), width=80)
    page.print(efficiency_report(table))
    text = page.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    shown = re.findall(r"^ pact\*° .*", text, re.MULTILINE)
    assert [len(line.split()) - 1 for line in shown] == [4, 6, 6]  # a line in each table
    _, *lines = markdown_lines(efficiency_markdown(table))
    assert " ".join(shown).replace("pact*°", "").split() == lines[2][1:]


def test_ctrl_c_shows_what_is_finished_and_resume_does_the_rest(
    loaded, order, monkeypatch, tmp_path
):
    original, calls = module._Prefill._sample, 0

    def interrupted(self):
        nonlocal calls
        calls += 1
        if calls == 3:  # in the first round
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(module._Prefill, "_sample", interrupted)
    out = tmp_path / "rows.json"
    options = {"new_tokens": 2, "repeats": 2, "out": out, "resume": True}
    first = table_of(loaded, VIDEO, "aim,fastv,vtw", "fastv", **options)
    finished = [row.label for row in first.rows if row.ran]
    assert len(finished) == 2 and len(first.waiting) == 2
    assert {*finished, *first.waiting} == {"none", "aim", "fastv", "vtw"}
    said = efficiency_markdown(first)
    assert "Interrupted, rounds so far: " in said
    assert f"Not timed yet: {', '.join(first.waiting)}." in said
    assert {row.key.run.schedule for row in read_rows(out)} == {
        row.executed.entry.schedule for row in first.rows if row.ran
    }
    second = table_of(loaded, VIDEO, "aim,fastv,vtw", "fastv", **options)
    assert [row.ran.repeats for row in second.rows] == [2] * 4
    order.clear()
    third = table_of(loaded, VIDEO, "aim,fastv,vtw", "fastv", **options)
    assert order == [] and third.to_rows() == second.to_rows()  # nothing ran again


def test_rows_that_were_not_counted_are_measured_again(loaded, tmp_path):
    out = tmp_path / "rows.json"
    module.measure(loaded, VIDEO, "none", repeats=4, warmup=0, out=out)
    table = table_of(loaded, VIDEO, "fastv", repeats=1, new_tokens=1, out=out, resume=True)
    assert all(row.is_as_predicted for row in table.rows)
    assert all(row.end_to_end_s == row.ttft_s and row.ran.tpot_s is None for row in table.rows)


def test_a_budget_is_that_of_compare(loaded):
    options = {"equal": "tokens", "budget": 20.0}
    table = table_of(loaded, VIDEO, "aim,uniform,fastv", "fastv", repeats=1, **options)
    found = compare(
        Case(loaded.spec, VIDEO, "a100-sxm4-80gb"), "aim,uniform,fastv", "fastv", **options
    )
    schedules = [row.executed.entry.schedule for row in table.rows]
    assert schedules == [row.entry.schedule for row in found.rows]
    assert all(row.average_tokens <= 20 for row in table.rows[1:])
    assert "Each method has at most 20.0" in efficiency_markdown(table)


def test_equal_times_need_a_device(loaded):
    with pytest.raises(ScheduleError, match="--hardware"):
        table_of(loaded, VIDEO, "fastv", equal="time")


def test_an_image_of_another_family():
    config = tiny_llava_15().config.to_dict()
    model = load(config, "cpu", "float32", random_weights=True)
    image = Workload(text_tokens=9, image_tokens=18)
    table = table_of(model, image, "fastv,dycoke", repeats=1, new_tokens=2)
    none, fastv, dycoke = table.rows
    assert none.is_as_predicted and fastv.is_as_predicted
    assert "a video" in dycoke.reason
