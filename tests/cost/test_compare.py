"""aim-cost compare and methods: rows equal estimates, budgets are met or said not to be."""

import csv
import io
import json

import pytest

from aim_cost import Case, Schedule, Workload, compare, estimate, load_hardware, load_model_spec
from aim_cost.cli.methods_table import methods_table
from aim_cost.conventions.convention import CONVENTIONS, EXECUTED, FASTV, LLM_VIEWER
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.methods import METHODS, parse_methods
from aim_cost.render import console
from aim_cost.studies.budget import KINDS, get_budget, meet
from aim_cost.studies.compare import compared
from aim_cost.studies.compared import free_twin
from aim_cost.studies.entry import resolve
from tests.cost.test_cli import run

ONEVISION = load_model_spec("llava-onevision-qwen2-7b")
H100 = load_hardware("h100-sxm")
VIDEO = Workload(100, frames=32)
CASE = Case(ONEVISION, VIDEO, H100)
ALL = list(CONVENTIONS.values())


def rows_of(text, conventions=ALL, case=CASE):
    names = ", ".join(convention.name for convention in conventions)
    return compare(case, text, names).to_rows()


def one(rows, method, convention="executed"):
    (row,) = [r for r in rows if (r["method"], r["convention"]) == (method, convention)]
    return row


def test_rows_are_estimates():
    rows = rows_of("aim,fastv:r=0.75")
    assert [r["method"] for r in rows] == ["none"] * 5 + ["aim"] * 5 + ["fastv"] * 5
    schedule = Schedule.parse("merge 0.25, prune linear:14:22")
    base = estimate(*(ONEVISION, CASE.workload, Schedule(), H100), convention=FASTV)
    for convention in ALL:
        result = estimate(*(ONEVISION, CASE.workload, schedule, H100), convention=convention)
        row = one(rows, "aim", convention.name)
        parts = [result.phase(name).flops for name in ("merge", "llm", "importance")]
        assert row["flops"] == sum(parts)
        assert row.get("macs") == result.macs
        if convention is FASTV:
            assert row["flops_share"] == result.flops / base.flops
        if convention is EXECUTED:
            assert row["flops"] == 15_527_245_547_520 + 41_349_456_344 + 2_753_658_880
            assert row["ttft_s"] == result.ttft_s
            assert (row["ttft_low_s"], row["ttft_high_s"]) == (
                result.ttft.low_s,
                result.ttft.high_s,
            )
            assert row["kv_cache_bytes"] == result.memory.kv_cache_bytes
            assert row["total.flops"] == result.flops
            tokens = sum(result.trace.attention_tokens) / 28 - 100
            assert row["average_visual_tokens"] == tokens
            assert row["average_visual_tokens_share"] == tokens / 6273
        else:
            assert "ttft_s" not in row
    assert one(rows, "fastv")["parameters"] == {"k": 2, "r": 0.75, "eager": 0}
    assert one(rows, "none")["flops_share"] == 1


def test_what_scoring_costs_is_what_a_free_choice_saves():
    rows = rows_of("aim,fastv:eager=1,random,uniform,vtw,pdrop", [EXECUTED])
    aim = one(rows, "aim")
    result = CASE.price(Schedule.parse("merge 0.25, prune linear:14:22"))
    matches = sum(op.flops for op in result.graph.phase("merge"))
    assert aim["scoring.flops"] == matches + result.phase("importance").flops
    assert 0 < aim["scoring.time_share"] < 1
    assert aim["scoring.time_s"] == pytest.approx(aim["scoring.time_share"] * aim["ttft_s"])
    for name in ("none", "random", "uniform", "vtw"):
        row = one(rows, name)
        assert (row["scoring.flops"], row["scoring.time_s"]) == (0, 0)
    fastv = one(rows, "fastv")
    # no product of its own, but a layer whose attention is written out
    assert fastv["scoring.flops"] == 0 < fastv["scoring.time_s"]
    assert [r["method"] for r in rows if not r["flash_attention"]] == ["fastv"]


def test_a_free_twin_has_the_same_counts():
    for request in parse_methods("all"):
        schedule = resolve(CASE, request).schedule
        mine, free = (s.resolve(ONEVISION, CASE.workload) for s in (schedule, free_twin(schedule)))
        assert mine.attention_tokens == free.attention_tokens
        assert mine.mlp_tokens == free.mlp_tokens


def test_printed_figures_stand_beside_ours_at_their_own_text():
    rows = rows_of("holitom,pdrop,fastervlm,fastv")
    holitom = one(rows, "holitom", "fastv")
    assert (holitom["published"], holitom["published.computed"]) == ("7.1", "7.1")
    assert holitom["published.text_tokens"] == 0
    assert "2505.21334" in holitom["source"]
    pdrop = one(rows, "pyramiddrop", "fastv")
    assert (pdrop["published"], pdrop["published.computed"]) == ("10.5", "18.0")
    assert "not stated" in pdrop["published.note"]
    # VisionZip's schedule under another name, another share or convention: nobody printed those
    for name, convention in (("fastervlm", "fastv"), ("fastv", "fastvid"), ("holitom", "pdrop")):
        row = one(rows, name, convention)
        assert (row["published"], row["source"]) == (None, None)
    elsewhere = Case(ONEVISION, Workload(100, frames=16), H100)
    assert one(rows_of("holitom", [FASTV], elsewhere), "holitom", "fastv")["published"] is None


def test_without_text_macs_are_those_of_the_papers():
    case = Case(ONEVISION, Workload(0, frames=32), H100)
    row = one(rows_of("visionzip", [FASTV], case), "visionzip", "fastv")
    assert f"{row['macs'] / 1e12:.2f}" == row["published"] == "8.71"


def test_a_method_that_does_not_fit_says_so_and_the_others_are_priced():
    image = Case(load_model_spec("llava-1.5-7b"), Workload(40, image_tokens=576), H100)
    rows = rows_of("dycoke,aim", [EXECUTED, LLM_VIEWER], image)
    refused = one(rows, "dycoke")
    assert "a video" in refused["reason"]
    assert refused["schedule"] is None and "flops" not in refused
    assert one(rows, "aim")["reason"] == ""


def test_a_wrong_parameter_is_an_error_and_no_row():
    with pytest.raises(ScheduleError, match=r"fastv\.k"):
        rows_of("fastv:k=99")


@pytest.mark.parametrize(("methods", "lines"), [("aim,pdrop", 0), ("aim,fastv:eager=1", 2)])
def test_the_mark_of_flash_attention_is_explained_where_it_stands(methods, lines):
    shown = run("compare", "--methods", methods, "--conventions", "executed").splitlines()
    assert sum("†" in line for line in shown) == lines


def test_a_comparison_shows_itself_as_the_command_does():
    found = compare(
        Case("llava-onevision-qwen2-7b", VIDEO, "h100-sxm"), "aim, pdrop", equal="flops"
    )
    assert found.budget == get_budget(CASE, "flops")
    assert str(found) == run("compare", "--methods", "aim,pdrop", "--equal", "flops").rstrip("\n")
    with pytest.raises(ScheduleError, match="--equal"):
        compare(CASE, "aim", budget=5.0)
    with pytest.raises(SpecError, match="llm-viewer"):
        compare(CASE, "aim", "executed, all")


def test_two_of_one_method_are_told_apart():
    labels = [row["label"] for row in rows_of("fastv:k=2,fastv:k=3", [EXECUTED])]
    assert labels == ["none", "fastv", "fastv (2)"]


MET = [
    *((name, "tokens") for name in ("aim", "fastv", "dart", "evs", "vtw", "sparsevlm")),
    *((name, "flops") for name in ("aim", "fastv", "visionzip")),
]


@pytest.mark.parametrize(("method", "name"), MET)
def test_a_budget_is_met_and_the_next_step_is_above(method, name):
    budget = get_budget(CASE, name)
    (request,) = parse_methods(method)
    entry = meet(CASE, request, budget)
    assert entry.reason == ""
    measure = budget.kind.measure
    assert measure(CASE, entry.schedule) == entry.met.reached <= budget.amount
    assert entry.met.share == entry.met.reached / budget.amount
    if method == "aim":
        assert entry.parameters["retention"] == 0.25
        return
    knob = METHODS[method].scale
    steps = knob.steps(28, 196)
    above = steps[steps.index(entry.parameters[knob.name]) + 1]
    schedule = METHODS[method].schedule(ONEVISION, CASE.workload, **{knob.name: above})
    assert measure(CASE, schedule) > budget.amount


def test_time_is_met_too():
    small = Case(ONEVISION, Workload(20, frames=8), H100)
    budget = get_budget(small, "time", 60)
    assert budget.amount == 0.06
    for request in parse_methods("fastv,random"):
        entry = meet(small, request, budget)
        assert 0.98 < entry.met.share <= 1


def test_what_cannot_meet_a_budget_says_how_near_it_comes():
    low, high = get_budget(CASE, "tokens", 100), get_budget(CASE, "tokens", 9000)
    for text, budget, expected in (
        ("fastv", low, "at least 448.1, at r 1"),
        ("pdrop", low, "at least"),
        ("dycoke", low, "at least 1765.0, at p 1"),
        ("fastv", high, "at most 6273.0, at r 0"),
        ("tome", low, "at least 6273.0, at r 27"),
        ("random", get_budget(CASE, "tokens", 1), "at least 2.0"),
    ):
        (request,) = parse_methods(text)
        entry = meet(CASE, request, budget)
        assert entry.schedule is None
        assert expected in entry.reason
    rows = [row.to_row() for row in compared(CASE, [entry], [EXECUTED])]
    assert "flops" not in rows[-1] and "cannot meet" in rows[-1]["reason"]


def test_a_budget_needs_a_free_parameter(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("prune: {linear: [14, 22]}\n")
    budget = get_budget(CASE, "tokens")
    (request,) = parse_methods(str(path))
    assert "no parameter" in meet(CASE, request, budget).reason
    for text in ("fastv:r=0.5", "random:tokens=64"):
        (request,) = parse_methods(text)
        with pytest.raises(ScheduleError):
            meet(CASE, request, budget)
    for name, amount in (("money", None), ("flops", -1.0), ("time", float("inf"))):
        with pytest.raises(ScheduleError):
            get_budget(CASE, name, amount)


def test_budgets_are_given_in_units_for_people():
    amounts = {name: get_budget(CASE, name, 5).amount for name in KINDS}
    assert amounts == {"tokens": 5, "flops": 5e12, "time": 0.005}


def printed(capsys, renderable):
    console().print(renderable)
    return capsys.readouterr().out.splitlines()


def test_tables_fit_80_columns_and_cut_nothing(capsys):
    tables = (
        compare(CASE, "all"),
        compare(CASE, "all", "executed", equal="tokens"),
        methods_table(list(METHODS.values())),
    )
    words = {word for line in printed(capsys, tables[2]) for word in line.replace(",", "").split()}
    assert {name for method in METHODS.values() for name in method.scoring} <= words
    for shown in tables:
        lines = printed(capsys, shown)
        assert all(len(line) <= 80 for line in lines)
        assert not any("…" in line for line in lines)
        for name in METHODS:
            assert any(line.lstrip().startswith(name) for line in lines)
        if shown is tables[0]:
            counts = [line.split() for line in lines if line.startswith(" prumerge-plus* ")]
            assert [len(words) for words in counts] == [10, 11]  # each in one line


def test_the_command_line_prints_json_and_csv():
    arguments = ["compare", "--methods", "aim,pdrop", "--frames", "8"]
    rows = json.loads(run(*arguments, "--conventions", "fastv,executed", "--format", "json"))
    assert [row["convention"] for row in rows] == ["fastv", "executed"] * 3
    assert rows[0]["macs"] * 2 == rows[0]["flops"]
    text = run(*arguments, "--conventions", "fastv", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert json.loads(lines[-1]["parameters"]) == {"stages": [7, 14, 21], "ratio": 0.5}
    equal = run(*arguments, "--equal", "tokens", "--conventions", "fastv", "--format", "json")
    assert [bool(row["reason"]) for row in json.loads(equal)] == [False, False, True]
    detail = json.loads(run("methods", "holitom", "--format", "json"))
    assert detail["published"][0]["printed"] == "7.1"
    assert "share of those dropped there" in run("methods", "holitom")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compare", "--methods", "fastvv"], "fastervlm"),
        (["compare", "--conventions", "fatsv"], "fastvid"),
        (["compare", "--equal", "money"], "flops, time, tokens"),
        (["compare", "--budget", "3"], "--equal"),
        (["methods", "fastvv"], "fastervlm"),
    ],
)
def test_wrong_names_are_one_line(arguments, expected):
    error = run(*arguments, status=2)
    assert expected in error
    assert len(error.splitlines()) == 1
