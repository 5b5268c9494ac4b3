"""What aim-cost says of the methods that run is what the runtime does."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from aim_cost import AimError, Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_cost.cli.main import app
from aim_cost.methods import METHODS
from aim_cost.ops.kind import Elementwise
from aim_cost.ops.op import Op
from aim_cost.ops.scores import LAYER_SCORES, LayerScore
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.executed import why_not_run
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.patching.executable import check_executable
from aim_runtime.reduction.scores import LAYER_IMPORTANCE
from aim_runtime.reference import Reference
from aim_runtime.selection import SELECTIONS
from tests.runtime.slow_scores import SLOW_SCORES
from tests.runtime.support import tiny_qwen2

MODELS = (
    (load_model_spec("llava-onevision-qwen2-7b"), Workload(100, frames=32)),
    (load_model_spec("llava-1.5-7b"), Workload(100, image_tokens=576)),
)


def test_the_scores_that_run_are_those_with_code():
    assert [name for name, score in LAYER_SCORES.items() if score.runs] == list(LAYER_IMPORTANCE)


def test_each_score_that_runs_has_a_slow_reference():
    assert set(SLOW_SCORES) == set(LAYER_IMPORTANCE)


@pytest.mark.parametrize("registry", [LAYER_SCORES, VISUAL_SCORES], ids=["inside", "before"])
def test_a_score_has_one_entry_under_its_name(registry):
    assert [score.name for score in registry.values()] == list(registry)
    assert len({score.summary for score in registry.values()}) == len(registry)


def test_an_added_score_needs_its_entry_its_code_and_its_reference(monkeypatch):
    """Keep the tokens with the largest first key: priced, run and held to the reference."""

    def ops(size):
        return [Op("score", "importance", 0, 0, 0, Elementwise.COPY, size.layer)]

    entry = LayerScore("first-key", "the largest first entry of the first key", "a test", ops)
    monkeypatch.setitem(LAYER_SCORES, entry.name, entry)
    monkeypatch.setitem(LAYER_IMPORTANCE, entry.name, lambda at: at.key[:, 0, :, 0])
    monkeypatch.setitem(SLOW_SCORES, entry.name, lambda at: at.key[0, :, 0])
    schedule = Schedule(prune=Prune(ratios=(1, 0.5, 0.25), importance=entry.name))
    assert why_not_run(schedule) is None
    priced = estimate(MODELS[0][0], MODELS[0][1], schedule, load_hardware("h100-sxm"))
    assert [op.layer for op in priced.graph if op.name == "score"] == [1, 2]
    model, embeds = tiny_qwen2(), torch.randn(1, 30, 64)
    mask = torch.zeros(1, 30, dtype=torch.bool)
    mask[:, 4:24] = True
    with patched(model, schedule, visual_mask=mask) as trace:
        model(inputs_embeds=embeds)
    reference = Reference(model.model, model.lm_head, SLOW_SCORES)
    kept = reference.kept(embeds[0], mask[0], trace.tokens)
    assert [one[0].tolist() for one in trace.kept] == [one.nonzero()[:, 0].tolist() for one in kept]
    assert [int(one.sum()) for one in kept] == [30, 30, 20, 15, 15, 15, 15]


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_method_runs_where_the_list_says_so(method):
    for model, workload in MODELS:
        try:
            schedule = method.schedule(model, workload)
        except AimError:
            continue
        try:
            check_executable(schedule, model.text.num_hidden_layers)
            ran = True
        except AimError:
            ran = False
        assert ran == method.runs == (why_not_run(schedule) is None)
        return
    pytest.fail("no model takes it")


def test_some_run_and_the_others_say_why():
    running = {method.name for method in METHODS.values() if method.runs}
    inside = {"fastv", "pyramiddrop", "vtw", "sparsevlm", "dart", "v2drop"}
    assert {"aim", "tome"} | inside <= running < {*METHODS}
    refused = why_not_run(Schedule.parse("prune linear:14:22 score=key-distances"))
    assert refused is not None and refused.got == "key-distances"
    assert "pagerank" in refused.fix and "key-distances" not in refused.fix


def test_a_schedule_that_never_ranks_runs_whatever_its_score():
    for text in ("ratios:1,1,0", "linear:13:14", "layers:0"):
        assert why_not_run(Schedule.parse(f"prune {text} score=offline")) is None
    for text in ("ratios:1,0.5,0", "linear:13:15", "layers:9,0"):
        assert why_not_run(Schedule.parse(f"prune {text} score=offline")) is not None


def test_the_readme_says_which_run():
    text = " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())
    papers = [method.title for method in METHODS.values() if method.runs and method.arxiv]
    assert f"It runs {', '.join(papers)} and the baselines; the three other methods" in text
    assert sum(not method.runs for method in METHODS.values()) == 3
    baselines = sum(method.arxiv is None for method in METHODS.values())
    assert f"It has {len(METHODS) - baselines} published methods and four baselines" in text
    assert baselines == 4


def test_the_page_of_methods_says_how_each_runs():
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    assert f"lists {len(METHODS)} published methods and baselines" in text
    section = text.split("## What runs, and how")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    running = [method for method in METHODS.values() if method.runs]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [m.title for m in running]
    for row, method in zip(rows, running, strict=True):
        names = [name for name in method.scoring if name in LAYER_IMPORTANCE]
        assert method.name == "aim" or all(f"`score={name}`" in row for name in names)


def test_the_table_shows_it_within_80_columns():
    result = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "80"})
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    marks = {
        line.split()[0].rstrip("*"): line.split()[1] for line in lines if len(line.split()) > 2
    }
    for method in METHODS.values():
        assert (marks[method.name] == "‡") == method.runs, method.name


def test_the_scores_are_listed_with_why_they_do_not_run():
    result = CliRunner().invoke(app, ["methods", "--scores"], env={"COLUMNS": "80"})
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(result.output.split())
    for score in LAYER_SCORES.values():
        expected = [score.name, "yes" if score.runs else "-"]
        assert [line for line in lines if line.split()[:2] == expected]
        assert score.runs or f"{score.name} ({score.why_not_run})" in text
    rows = json.loads(CliRunner().invoke(app, ["methods", "--scores", "--format", "json"]).output)
    assert {row["name"] for row in rows if row["runs"]} == {*LAYER_IMPORTANCE, *SELECTIONS}
