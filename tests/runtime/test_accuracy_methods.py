"""Methods at equal budgets: who stands above a baseline, and the table that says so."""

import io

import pytest
from rich.console import Console

from aim_cost import Schedule
from aim_runtime.answers.accuracy import ALL, Accuracy, AtBudget
from aim_runtime.answers.at_budgets import Missed
from aim_runtime.answers.interval import Interval
from aim_runtime.answers.standing import Standing
from aim_runtime.cli.accuracy_tables import methods_table


def around(value, half):
    return Interval(value, value - half, value + half)


def line(method, budget, right, to_random):
    """A line of 400 questions; without a method it is no reduction."""
    at = AtBudget(method, "tokens", budget, 0.99) if method else None
    return Accuracy(
        kind=ALL,
        schedule=Schedule.parse("merge 0.5" if method else "none"),
        draws=1,
        llm_flops=123_456_789,
        total_flops=1,
        time_s=1.0,
        share=around(right, 0.02),
        n=400,
        difference=around(0.0, 0.0),
        random_difference=None,
        random_draws=None,
        at=at,
        to_random=to_random,
        to_uniform=None,
    )


LINES = [
    line("", None, 0.97, None),
    line("weak", 0.5, 0.60, around(-0.1, 0.05)),
    line("strong", 0.5, 0.9, around(0.2, 0.05)),
    line("near", 0.5, 0.75, around(0.05, 0.049)),
    line("random", 0.5, 0.7, None),
    line("strong", 0.25, 0.8, around(-0.0001, 0.05)),
]


def shown(lines, missed=()):
    page = Console(width=80, force_terminal=False, file=io.StringIO())
    page.print(methods_table(lines, missed, 400))
    return page.file.getvalue()


def test_a_difference_stands_alone_or_among_others():
    assert around(0.2, 0.19).leaves_out_zero() and around(-0.2, 0.19).leaves_out_zero()
    assert not around(0.2, 0.2).leaves_out_zero()
    # of a hundred, 3.4808 deviations in place of 1.96
    assert around(0.2, 0.2 / 3.4809 * 1.95996).leaves_out_zero(100)
    assert not around(0.2, 0.2 / 3.4806 * 1.95997).leaves_out_zero(100)


def test_standing_tells_better_worse_and_neither():
    found = Standing.of({"a": around(0.1, 0.05), "b": around(-0.1, 0.05), "c": around(0.1, 0.1)})
    assert (found.better, found.worse, found.open) == (("a",), ("b",), ("c",))
    assert found.compared == 3
    assert found.better_by_chance == pytest.approx(0.075)


def test_the_table_has_each_budget_best_first_and_says_who_beats_chance():
    text = shown(
        LINES, [Missed("fastv", 0.25, "cannot meet it"), Missed("pact", None, "it merges")]
    )
    assert max(map(len, text.splitlines())) <= 80
    half, quarter = text.split("Accuracy of methods at a budget of 25 %")
    rows = [row.split() for row in half.splitlines() if row.startswith(" ") and row.strip()]
    assert [row[0] for row in rows if row[0].isalpha()] == [
        *("method", "none", "strong", "near", "random", "weak")
    ]
    assert "+20.0±5.0**" in half and "+5.0±4.9* " in half and "-10.0±5.0**" in half
    assert "+0.0±5.0 " in quarter
    words = " ".join(half.split())
    assert "2 of 3 better than random: strong, near. 1 worse: weak. None not told from it." in words
    assert "By chance alone 0.1 would be better" in words
    assert "better than uniform" not in text
    after = " ".join(quarter.split())
    assert "None of 1 better than random. None worse. 1 not told from it: strong." in after
    assert "all 4 differences of a column" in after
    assert "fastv at 25 %: cannot meet it" in after
    assert "pact does not run: it merges" in after
