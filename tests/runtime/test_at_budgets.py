"""Methods at equal budgets: what is asked of each, and why others are not."""

import pytest

from aim_cost import Case, Execution, ModelSpec, Workload
from aim_cost.errors import ScheduleError
from aim_cost.methods import METHODS, parse_methods
from aim_runtime.answers.at_budgets import at_budgets
from aim_runtime.tiny.model import tiny_config

SPEC = ModelSpec.from_hf_config(tiny_config().to_dict(), name="tiny")
CASE = Case(SPEC, Workload(text_tokens=8, frames=8), "cpu-generic", Execution(dtype="float32"))
VISUAL, TEXT = 129, 8  # the newline included


def mean_tokens(schedule):
    """Visual tokens entering a layer, the mean of the eight, summed by hand."""
    counts = schedule.resolve(SPEC, CASE.workload).attention_tokens
    assert len(counts) == 8
    return sum(count - TEXT for count in counts) / 8


def test_no_method_keeps_more_than_the_budget_and_nearly_all_of_it():
    shares = (0.5, 0.25, 0.125)
    asked, missed = at_budgets(CASE, parse_methods("all"), "tokens", shares)
    assert {one.at.method for one in asked} >= {"aim", "fastv", "random", "uniform"}
    for one in asked:
        budget = 1 + one.at.budget * (VISUAL - 1)  # the newline token stays
        assert mean_tokens(one.schedule) == pytest.approx(one.at.used * budget)
        least = 0.4 if one.at.method == "low-resolution" else 0.6  # 1, 4 or 9 of 16
        assert least < one.at.used <= 1
        assert mean_tokens(one.random) == mean_tokens(one.uniform) == budget
        assert (one.random.select.by, one.uniform.select.by) == ("random", "uniform")
    told = {(one.at.method, one.at.budget) for one in asked}
    told |= {(one.method, one.budget) for one in missed}
    for name, method in METHODS.items():
        for share in shares if method.runs else (None,):
            assert (name, share) in told, name
    assert all(one.reason for one in missed)


def test_equal_flops():
    asked, _ = at_budgets(CASE, parse_methods("fastv,uniform"), "flops", (0.5,))
    fastv, uniform = (
        sum(CASE.price(one.schedule).phase(name).flops for name in ("merge", "llm", "importance"))
        for one in asked
    )
    assert 0.97 < fastv / uniform <= 1
    assert asked[1].schedule == asked[1].uniform == asked[0].uniform


def test_a_parameter_that_is_given_is_named_and_kept():
    (fastv,), _ = at_budgets(CASE, parse_methods("fastv:k=3"), "tokens", (0.5,))
    assert fastv.at.method == "fastv:k=3"
    assert fastv.schedule.prune.ratios[:2] == (1, 1)
    assert fastv.schedule.prune.ratios[2] < 1


@pytest.mark.parametrize(
    ("equal", "share", "named"), [("memory", 0.5, "--equal"), ("tokens", 1.5, "retention")]
)
def test_nonsense_is_refused(equal, share, named):
    with pytest.raises(ScheduleError, match=named):
        at_budgets(CASE, parse_methods("aim"), equal, (share,))
