"""Accuracy rows: intervals, paired differences, random twins, resumption; and real drops."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aim_cost import Execution, ModelSpec, Schedule, Workload, estimate, load_hardware
from aim_runtime.answers.accuracy import (
    Accuracy,
    Asked,
    AtBudget,
    at_random,
    exam_schedules,
    is_random,
    measure_accuracy,
)
from aim_runtime.answers.accuracy_file import AccuracyFile, ExamKey
from aim_runtime.errors import MeasurementError
from aim_runtime.reduction.chance import drawing, random_numbers
from aim_runtime.tiny.model import tiny_config

MEASURED = Path(__file__).parents[2] / "measurements" / "tiny" / "accuracy.json"
SPEC = ModelSpec.from_hf_config(tiny_config().to_dict(), name="tiny")
PROMPT = Workload(text_tokens=8, frames=8)
KINDS = ("a", "b") * 50
CUT = Schedule.parse("merge 0.5, prune linear:2:6")
EXAM = ExamKey("tiny", "test", 8, 0)


def answers_of(shares):
    """Answers with that many of the first questions right."""

    def answers(schedule):
        right = torch.zeros(len(KINDS), dtype=torch.bool)
        right[: int(shares(schedule) * len(KINDS))] = True
        return right, 0.25

    return answers


def measured(shares, schedules, **options):
    asked = [Asked(one) for one in schedules]
    return measure_accuracy(answers_of(shares), KINDS, asked, SPEC, PROMPT, **options)


def share_of(schedule):
    if schedule == Schedule():
        return 0.9
    return 0.5 if is_random(schedule) else 0.7


def test_each_schedule_has_a_row_of_all_and_of_each_kind():
    rows = measured(share_of, [Schedule(), CUT])
    assert [row.kind for row in rows] == ["all", "a", "b"] * 2
    assert [row.share.value for row in rows[::3]] == pytest.approx([0.9, 0.7])
    assert [row.n for row in rows[:3]] == [100, 50, 50]
    assert rows[3].to_row()["importance"] == "pagerank"
    assert rows[0].difference.value == 0
    assert rows[0].random_difference is None
    written = json.loads(json.dumps([row.to_row() for row in rows]))
    assert [Accuracy.of(row) for row in written] == rows


def test_differences_are_paired():
    row = measured(share_of, [CUT])[0]
    assert row.difference.value == pytest.approx(-0.2)
    assert row.random_difference.value == pytest.approx(0.2)
    assert row.difference.leaves_out_zero()
    # 20 of 100 differ by one: sd = sqrt(0.2 * 0.8 * 100 / 99)
    half = 1.96 * (0.2 * 0.8 * 100 / 99) ** 0.5 / 10
    assert row.difference.low == pytest.approx(-0.2 - half)
    assert row.random_difference.high == pytest.approx(0.2 + half)


def test_wilson_interval():
    row = measured(lambda schedule: 1.0, [Schedule()])[0]
    assert row.share.value == 1
    assert row.share.high == pytest.approx(1)
    assert row.share.low == pytest.approx(100 / (100 + 1.96**2))


def test_flops_are_those_of_the_cost_model():
    row = measured(share_of, [CUT])[0]
    priced = estimate(SPEC, PROMPT, CUT, load_hardware("cpu-generic"), Execution(dtype="float32"))
    assert row.total_flops == priced.flops
    scoring = priced.phase("importance").flops
    assert row.llm_flops == priced.phase("llm").flops + scoring > scoring > 0


def test_random_schedules_are_the_mean_of_draws():
    seen = []

    def answers(schedule):
        seen.append(random_numbers(1, 4).tolist())
        return torch.full((len(KINDS),), len(seen) == 1), float(len(seen))

    twin = at_random(CUT)
    (row, *_) = measure_accuracy(answers, KINDS, [Asked(twin)], SPEC, PROMPT, draws=4)
    assert row.share.value == 0.25
    assert row.draws == 4
    assert row.time_s == 2.5
    assert len({str(numbers) for numbers in seen[:4]}) == 4  # the fifth run is no reduction
    with pytest.raises(MeasurementError, match="draws"):
        measure_accuracy(answers, KINDS, [Asked(twin)], SPEC, PROMPT, draws=0)


def test_rows_that_are_there_are_not_measured_again():
    kept = []
    first = measured(share_of, [Schedule()], keep=lambda rows: kept.append(len(rows)))
    assert kept == [3]
    again = measured(lambda schedule: 0.1, [Schedule(), CUT], done=first)
    assert again[:3] == first
    assert again[3].share.value == pytest.approx(0.1)


def test_a_method_at_a_budget_is_compared_with_selection_at_the_same_budget():
    random, uniform = map(Schedule.parse, ("select 0.5 score=random", "select 0.5"))
    shares = {Schedule(): 0.9, CUT: 0.7, random: 0.5, uniform: 0.8}
    at = AtBudget("aim", "tokens", 0.5, 0.99)
    asked = [
        Asked(CUT),
        Asked(CUT, at, random, uniform),
        Asked(random, replace(at, method="random"), random, uniform),
    ]

    def measure(done=()):
        answers = answers_of(lambda schedule: shares.get(schedule, 0.0))
        return measure_accuracy(answers, KINDS, asked, SPEC, PROMPT, done=done)

    lines = measure()
    plain, method, chance = lines[::3]
    assert (plain.at, plain.to_random, plain.to_uniform) == (None, None, None)
    assert plain.random_difference is not None
    assert (method.at, method.random_difference) == (at, None)
    assert method.to_random.value == pytest.approx(0.2)
    assert method.to_uniform.value == pytest.approx(-0.1)
    assert (chance.draws, chance.to_random) == (3, None)
    assert chance.to_uniform.value == pytest.approx(-0.3)
    assert [Accuracy.of(json.loads(json.dumps(line.to_row()))) for line in lines] == lines
    # the same schedule without a budget is another line
    shares[CUT] = 0.0
    assert measure(done=lines) == lines
    assert measure(done=lines[3:])[-3].share.value == 0


def test_twins():
    assert at_random(Schedule()) is None
    twin = at_random(
        Schedule.parse("merge 0.25 positions=kept, prune linear:2:6 score=text-attention")
    )
    assert twin.label() == "merge 0.25 by=random positions=kept, prune linear:2:6 score=random"
    assert at_random(twin) == twin
    assert not is_random(Schedule.parse("merge 0.25 by=uniform"))
    selected = at_random(Schedule.parse("select frame:3 score=vision-attention"))
    assert selected.label() == "select frame:3 score=random"
    assert is_random(selected)


def test_draws_repeat_and_differ_from_row_to_row():
    assert torch.equal(random_numbers(3, 5)[0], random_numbers(3, 5)[2])
    with drawing(1):
        first = random_numbers(3, 5)
    with drawing(1):
        assert torch.equal(first, random_numbers(3, 5))
    with drawing(2):
        assert not torch.equal(first, random_numbers(3, 5))
    assert not torch.equal(first[0], first[1])


def test_the_suite_has_45_schedules_each_once():
    labels = [schedule.label() for schedule in exam_schedules()]
    assert len(set(labels)) == len(labels) == 45
    assert labels[0] == "none"


def test_an_exam_of_before_the_words_had_names_is_resumed():
    file = AccuracyFile(MEASURED, EXAM, resume=True)
    assert {line.schedule for line in file.earlier} == set(exam_schedules())


def test_an_exam_of_other_questions_is_taken_again():
    """Their shares are of other numbers of clips, and must not stand in one table."""
    first = measured(share_of, [Schedule()])
    halved = measure_accuracy(
        lambda schedule: (torch.zeros(50, dtype=torch.bool), 0.25),
        KINDS[:50],
        [Asked(Schedule())],
        SPEC,
        PROMPT,
        done=first,
    )
    assert [line.n for line in halved] == [50, 25, 25]


def test_what_rests_on_other_draws_is_measured_again():
    """Of no reduction nothing is drawn; a twin at random is drawn beside the others."""
    schedules = [Schedule(), CUT, at_random(CUT)]
    done = measured(share_of, schedules, draws=2)
    found = measured(lambda schedule: 0.1, schedules, draws=3, done=done)
    assert found[:3] == done[:3]
    assert [line.share.value for line in found[3:]] == pytest.approx([0.1] * 6)
    assert [(line.draws, line.random_draws) for line in found[::3]] == [
        (1, None),
        (1, 3),
        (3, None),
    ]
    assert measured(lambda schedule: 0.1, schedules, draws=2, done=done) == done
    rows = [line.to_row() for line in done]
    for row in rows:
        del row["random_draws"]  # as they were written before
    old = measured(lambda schedule: 0.1, schedules, draws=2, done=list(map(Accuracy.of, rows)))
    assert [line in done for line in old] == [True] * 6 + [False] * 3


def test_a_file_keeps_the_lines_of_other_exams(tmp_path):
    path, other = tmp_path / "lines.json", replace(EXAM, seed=1)
    lines = measured(share_of, [Schedule()])
    AccuracyFile(path, EXAM).save(lines)
    AccuracyFile(path, other, resume=True).save(lines[:1])
    for exam, expected in ((EXAM, lines), (other, lines[:1])):
        assert AccuracyFile(path, exam, resume=True).earlier == expected
    AccuracyFile(path, other).save(lines[:1])
    assert AccuracyFile(path, EXAM, resume=True).earlier == []  # without resume it starts over


def test_a_file_says_with_what_it_was_measured_and_is_not_continued_with_something_else(tmp_path):
    """It is read all the same."""
    path = tmp_path / "lines.json"
    AccuracyFile(path, EXAM).save(measured(share_of, [Schedule()]))
    tree = json.loads(path.read_text())
    assert tree["environment"]["torch"] == torch.__version__
    tree["environment"]["torch"] = "2.0"
    path.write_text(json.dumps(tree))
    other = AccuracyFile(path, EXAM, resume=True)
    assert len(other.earlier) == 3
    with pytest.raises(MeasurementError, match=r"environment\.torch"):
        other.require_same_software()
    del tree["environment"]
    path.write_text(json.dumps(tree))  # as it was written before
    AccuracyFile(path, EXAM, resume=True).require_same_software()


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [1]}', '{"rows": [{"model": "m"}]}'])
def test_another_file_is_not_continued(tmp_path, content):
    path = tmp_path / "lines.json"
    path.write_text(content)
    with pytest.raises(MeasurementError, match="JSON rows that accuracy wrote"):
        AccuracyFile(path, EXAM, resume=True)
    assert path.read_text() == content
