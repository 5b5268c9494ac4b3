"""What aim-cost says of the methods that run is what the runtime does."""

import pytest
from typer.testing import CliRunner

from aim_cost import AimError, Schedule, Workload, load_model_spec
from aim_cost.cli.main import app
from aim_cost.methods import METHODS
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.schedules.executed import why_not_run
from aim_runtime.patching.executable import check_executable
from aim_runtime.reduction.scores import LAYER_IMPORTANCE

MODELS = (
    (load_model_spec("llava-onevision-qwen2-7b"), Workload(100, frames=32)),
    (load_model_spec("llava-1.5-7b"), Workload(100, image_tokens=576)),
)


def test_the_scores_that_run_are_those_with_code():
    assert [name for name, score in LAYER_SCORES.items() if score.runs] == list(LAYER_IMPORTANCE)


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
    assert {"aim", "tome"} <= running < {*METHODS}
    refused = why_not_run(Schedule.parse("prune linear:14:22 score=rater-attention"))
    assert refused is not None and refused.got == "rater-attention"
    assert "pagerank" in refused.fix and "rater" not in refused.fix


def test_the_table_shows_it_within_80_columns():
    result = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "80"})
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    (aim,) = [line for line in lines if line.split()[:1] == ["aim"]]
    assert "yes" in aim
