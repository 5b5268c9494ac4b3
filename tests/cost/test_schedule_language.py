"""The language of schedules: what is written is read back, older forms too; errors point."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aim_cost.errors import ScheduleError
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.papers.accuracy import published_accuracy
from aim_cost.schedules.language import OneOf
from aim_cost.schedules.merge import MERGE_KINDS, POSITIONS, Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import PARTS, Schedule
from aim_cost.schedules.select import Select
from aim_cost.schedules.vision_merge import ATTENTION_KINDS, VisionMerge

counts = st.integers(1, 10**9)
shares = st.floats(0, 1, exclude_min=True)


INSIDE_A_LAYER = [name for name, score in LAYER_SCORES.items() if not score.whole_layer]


def falling(numbers):
    """Lists of numbers that never rise."""
    return st.lists(numbers, min_size=1).map(lambda found: tuple(sorted(found, reverse=True)))


def built(part, amounts, **words):
    """A part with one of its amounts and any of its words."""
    return st.one_of(st.builds(part, **{name: one}, **words) for name, one in amounts.items())


merges = built(
    Merge,
    {
        "retention": shares,
        "tokens_per_frame": counts,
        "passes": st.lists(counts, min_size=1).map(tuple),
    },
    by=st.sampled_from(MERGE_KINDS),
    positions=st.sampled_from(POSITIONS),
)
prunes = built(
    Prune,
    {
        "linear": st.tuples(st.integers(0, 99), st.integers(1, 99)).map(
            lambda pair: (pair[0], sum(pair))
        ),
        "ratios": falling(st.floats(0, 1)),
        "tokens": falling(st.integers(0, 10**9)),
    },
    importance=st.sampled_from(sorted(LAYER_SCORES)),
    inject_at=st.integers(0, 10**9),
) | st.builds(
    Prune,
    ratios=falling(st.floats(0, 1)),
    importance=st.sampled_from(INSIDE_A_LAYER),
    drop_point=st.just("after_attention"),
)
selects = built(
    Select,
    {"retention": shares, "tokens": counts, "tokens_per_frame": counts},
    by=st.sampled_from(sorted(VISUAL_SCORES)),
)
vision_merges = built(
    VisionMerge,
    {"remove": counts},
    layers=st.none() | st.lists(st.integers(0, 99), min_size=2, max_size=2).map(sorted),
    attention=st.sampled_from(ATTENTION_KINDS),
)
schedules = st.builds(
    Schedule,
    st.none() | merges,
    st.none() | prunes,
    st.none() | selects,
    st.none() | vision_merges,
)

ROWS = sorted(
    path
    for path in (Path(__file__).parents[2] / "measurements").rglob("*.json")
    if "rows" in json.loads(path.read_text())
)
OLDER = {
    " none ": "none",
    "merge 0.25/random/kept": "merge 0.25 by=random positions=kept",
    "merge 0.25/kept/random": "merge 0.25 by=random positions=kept",
    "merge 0.25/similarity/recounted": "merge 0.25",
    "merge 1.0": "merge 1",
    "merge 25e-2": "merge 0.25",
    "merge tokens:24/uniform": "merge frame:24 by=uniform",
    "merge tokens: 24.0": "merge frame:24",
    "merge passes:98,49,25/kept": "merge passes:98,49,25 positions=kept",
    "merge  passes: 98 , 49": "merge passes:98,49",
    "prune linear:14:22": "prune linear:14:22",
    "prune linear:14:22/text-attention/after_attention": (
        "prune linear:14:22 score=text-attention drop=after-attention"
    ),
    "prune linear:14:22/after_attention/random": (
        "prune linear:14:22 score=random drop=after-attention"
    ),
    "prune linear:14:22/pagerank/layer": "prune linear:14:22",
    "prune ratios:1,0.50,0/offline/inject:8": "prune ratios:1,0.5,0 score=offline inject=8",
    "prune ratios:1/inject:8/offline": "prune ratios:1 score=offline inject=8",
    "prune ratios:1/inject:0": "prune ratios:1",
    "prune tokens:576,300,110/rater-attention": ("prune layers:576,300,110 score=rater-attention"),
    "select 0.25": "select 0.25",
    "select 0.25/pairwise-cosine": "select 0.25 score=pairwise-cosine",
    "select tokens:64/random": "select prompt:64 score=random",
    "select frame:49/uniform": "select frame:49",
    "vision_merge 16": "vision-merge 16",
    "vision_merge 16:4-20": "vision-merge 16 layers=4-20",
    "vision_merge 16:4,20": "vision-merge 16 layers=4-20",
    "vision_merge 8:0-0/plain": "vision-merge 8 layers=0-0 attention=plain",
    "vision_merge 8/proportional": "vision-merge 8",
    "merge 0.25,  prune linear:14:22": "merge 0.25, prune linear:14:22",
    "prune ratios:1,0.5, merge tokens:24, vision_merge 16": (
        "vision-merge 16, merge frame:24, prune ratios:1,0.5"
    ),
}


@given(schedules)
def test_labels_read_back(schedule):
    label = schedule.label()
    assert Schedule.parse(label) == schedule
    assert "_" not in label and "/" not in label
    for name in PARTS:
        if (part := getattr(schedule, name)) is not None:
            assert PARTS[name].parse(part.label()) == part


@pytest.mark.parametrize("older", OLDER)
def test_older_forms_are_read_and_written_anew(older):
    schedule = Schedule.parse(older)
    assert schedule.label() == OLDER[older]
    assert Schedule.parse(OLDER[older]) == schedule


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_labels_of_committed_rows_read_back(path):
    rows = json.loads(path.read_text())["rows"]
    schedules = [Schedule.parse(row["schedule"], f"{path}, row {i}") for i, row in enumerate(rows)]
    labels = [row["schedule"] for row in rows]
    assert len(set(schedules)) == len(set(labels)) > 10
    modern = [re.sub("/(?:kept|recounted)", " positions=kept", label) for label in labels]
    modern = [re.sub(r"(merge \S+)/(\w+)", r"\1 by=\2", label) for label in modern]
    modern = [label.replace("/", " score=") for label in modern]
    assert [schedule.label() for schedule in schedules] == modern


def test_labels_of_published_rows_read_back():
    labels = published_accuracy()["schedule"].dropna()
    assert len(labels) > 50
    assert [Schedule.parse(label).label() for label in labels] == list(labels)


def test_the_canonical_form_may_be_spaced_and_ordered_otherwise():
    canonical = "merge 0.25 by=random positions=kept, prune ratios:1,0.5 score=random inject=2"
    for text in (
        "prune ratios: 1, 0.5 inject=2 score=random, merge 0.25 positions=kept by=random",
        "\n merge 0.25  by=random  positions=kept,prune ratios:1,0.5  score=random inject=2 ",
        "merge 0.25/by=random/positions=kept, prune ratios:1,0.5/score=random/inject=2",
    ):
        assert Schedule.parse(text).label() == canonical


def one_of_words():
    """Each word that takes one of some names: (part, its amount, word)."""
    for name, part in PARTS.items():
        amount = part.AMOUNTS[0].form
        for word in part.WORDS:
            if isinstance(word.value, OneOf):
                yield pytest.param(name.replace("_", "-"), amount, word, id=f"{name}.{word.name}")


ONE_OF = list(one_of_words())


@pytest.mark.parametrize(("part", "amount", "word"), ONE_OF)
def test_a_wrong_word_lists_the_words_of_its_field_alone(part, amount, word):
    text = f"{part} {amount} {word.name}=sideways"
    with pytest.raises(ScheduleError) as error:
        Schedule.parse(text)
    assert error.value.expected == f"{word.name}={'|'.join(word.value.names)}"
    assert error.value.got == f"'sideways' at character {text.index('sideways') + 1} of {text!r}"


@pytest.mark.parametrize(("part", "amount", "word"), ONE_OF)
def test_a_word_said_twice_names_its_field(part, amount, word):
    first, second = list(word.value.names)[:2]
    for text in (
        f"{part} {amount}/{first}/{second}",
        f"{part} {amount} {word.name}={first}/{second}",
    ):
        with pytest.raises(ScheduleError) as error:
            Schedule.parse(text)
        assert error.value.expected == f"{word.name} once"
        assert error.value.got.startswith(f"'{second}' at character {text.rindex(second) + 1} of ")


@pytest.mark.parametrize(
    ("text", "expected", "wrong", "fix"),
    [
        ("sample 8 by=random", "nothing after the amount", "by=random", "Leave it out"),
        ("merg 0.25", "a part: sample, vision-merge, merge, select, prune", "merg", "mean merge?"),
        ("merge 0.25, none", "a part: ", "none", "Write one of these"),
        ("merge 0.25, merge 0.5", "merge once", "merge 0.5", "Keep one"),
        ("merge", "an amount such as 0.25, frame:24 or passes:98,49,25", "", ""),
        ("merge half", "an amount such as 0.25, frame:24 or passes:98,49,25", "half", ""),
        ("merge nan", "an amount such as 0.25", "nan", ""),
        ("merge tokens:2_4", "a whole number, as in frame:24", "2_4", ""),
        ("merge ,", "a number, as in 0.25", ",", ""),
        ("merge 0.25,", "a number, as in 0.25", "0.25,", ""),
        ("merge prompt:24", "an amount such as", "prompt:24", ""),
        ("merge tokens:1,2", "a whole number, as in frame:24", "1,2", ""),
        ("merge tokens:2.5", "a whole number, as in frame:24", "2.5", ""),
        ("merge frame:  2.5", "a whole number, as in frame:24", "2.5", ""),
        ("merge tokens:1e999", "a whole number, as in frame:24", "1e999", ""),
        ("merge passes:", "a whole number, as in passes:98,49,25", "", ""),
        ("merge 0.25 kept", "positions=recounted|kept", "kept", "Write positions=kept."),
        ("merge 0.25 by=", "by=similarity|random|uniform", "", ""),
        ("merge 0.25 at=kept", "by=similarity|random|uniform or positions=", "at=kept", ""),
        ("merge 0.25/sideways", "by=similarity|random|uniform or positions=", "sideways", ""),
        ("prune linear", "an amount such as linear:14:22, ratios:1,0.5,0 or ", "linear", ""),
        ("prune linear:a:b", "a whole number, as in linear:14:22", "a", ""),
        ("prune linear:1:2,3", "a whole number, as in linear:14:22", "2,3", ""),
        ("prune cosine:1:2", "an amount such as linear:14:22", "cosine:1:2", ""),
        ("prune linear:1:2/pagrank", "score=pagerank|", "pagrank", "mean score=pagerank?"),
        ("prune linear:1:2 score=pagrank", "score=pagerank|", "pagrank", "mean pagerank?"),
        ("prune linear:1:2 scor=random", "score=pagerank|", "scor=random", "mean score=?"),
        ("prune linear:1:2 inject:8", "score=pagerank|", "inject:8", ""),
        ("prune linear:1:2/inject:x", "a whole number, as in inject=8", "x", ""),
        ("select tokens:64/attention", "score=vision-attention|", "attention", ""),
        ("vision-merge 4,5", "a whole number, as in 16", "4,5", ""),
        ("vision-merge 4:5", "layers=4-20 or attention=proportional|plain", "5", ""),
        ("vision-merge 4:", "layers=4-20 or attention=proportional|plain", "", ""),
    ],
)
def test_errors_point_at_the_wrong_word(text, expected, wrong, fix):
    with pytest.raises(ScheduleError) as error:
        Schedule.parse(text, "here")
    assert error.value.where == "here"
    assert error.value.expected.startswith(expected)
    place = text.rindex(wrong) + 1 if wrong else len(text) + 1
    shown = repr(wrong) if wrong else "nothing"
    assert error.value.got == f"{shown} at character {place} of {text!r}"
    assert fix in error.value.fix


@pytest.mark.parametrize(
    ("text", "where", "got"),
    [
        ("merge 1.5", "here: merge.retention", "1.5 in '1.5' at character 7 of"),
        ("merge tokens:0", "here: merge.tokens_per_frame", "0 in '0' at character 14 of"),
        ("prune ratios:0.5,1", "here: prune.ratios[1]", "1.0 in '0.5,1' at character 14 of"),
        ("prune linear:3", "here: prune.linear", "(3,) in '3' at character 14 of"),
        ("prune linear:9:5", "here: prune.linear", "9, 5 in '9:5' at character 14 of"),
        ("vision-merge 4:9-5", "here: vision_merge.layers", "[9, 5] in '9-5' at character 16 of"),
        ("vision-merge 0", "here: vision_merge.remove", "0 in '0' at character 14 of"),
    ],
)
def test_values_that_a_part_refuses_have_a_place_too(text, where, got):
    with pytest.raises(ScheduleError) as error:
        Schedule.parse(text, "here")
    assert error.value.where == where
    assert error.value.got == f"{got} {text!r}"


pieces = st.sampled_from(
    [
        *(
            "merge",
            "prune",
            "select",
            "vision-merge",
            "vision_merge",
            "none",
            "by",
            "score",
            "drop",
        ),
        *("linear", "ratios", "tokens", "layers", "frame", "prompt", "passes", "inject", "kept"),
        *("random", "after_attention", "0.25", "14", "22", "1e9", "nan", "inf", "-1", "1_0", "٣"),
        *(" ", " ", ",", ", ", ":", "/", "=", "-", "\n", "\0", "_", "é", "16:4-20"),
    ]
)


@given(st.text() | st.lists(pieces).map("".join))
@example("merge " + "9" * 5000)
@example("prune tokens:" + "9" * 400)
@example("prune linear:1:" + "9" * 400)
def test_any_text_is_a_schedule_or_one_clear_error(text):
    for language in (Schedule, *PARTS.values()):
        with suppress(ScheduleError):
            found = language.parse(text)
            assert language.parse(found.label()) == found


def test_names_are_hyphenated_and_no_value_of_a_part_needs_its_name():
    """A value that two words of a part know would have no older form without its name."""
    for part in PARTS.values():
        names = [name for word in part.WORDS for name in word.value.names]
        assert len(names) == len(set(names))
        for word in (*part.AMOUNTS, *part.WORDS):
            assert re.fullmatch(r"[a-z-]*", word.name)
            assert word.field in part.__dataclass_fields__


@pytest.mark.parametrize("text", ["", " "])
def test_empty_text_is_no_schedule(text):
    for read in (Schedule.parse, Schedule.read, Schedule.from_argument):
        with pytest.raises(ScheduleError, match=r"got nothing\. Write none"):
            read(text)
    with pytest.raises(ScheduleError, match="got nothing"):
        Schedule.from_options({"schedule": text})
    with pytest.raises(ScheduleError, match="got nothing"):
        Schedule.from_options({"merge": text})


def test_a_function_that_takes_a_schedule_takes_its_text():
    text = "merge 0.25, prune linear:14:22"
    schedule = Schedule.parse(text)
    assert Schedule.of(schedule) is schedule
    assert Schedule.of(text) == schedule
    assert Schedule.all_of(text) == Schedule.all_of(schedule) == (schedule,)
    assert Schedule.all_of([text, Schedule()]) == (schedule, Schedule())
    for wrong in (None, 0.25, {"merge": {"retention": 0.25}}, [text]):
        with pytest.raises(ScheduleError, match=r"a Schedule, or its text, got .*Schedule\.parse"):
            Schedule.of(wrong)
    for wrong in (None, 0.25, {"merge": {"retention": 0.25}}, [None]):
        with pytest.raises(ScheduleError, match=r"Schedule\.parse"):
            Schedule.all_of(wrong)


def test_options_say_a_whole_schedule_or_parts(tmp_path):
    whole = Schedule.parse("vision-merge 16, merge 0.25")
    assert Schedule.from_options({"vision_merge": 16, "merge": 0.25, "prune": None}) == whole
    assert Schedule.from_options({}) == Schedule()
    (tmp_path / "text.yaml").write_text(f"{whole.label()}\n")
    assert Schedule.from_options({"schedule": str(tmp_path / "text.yaml")}) == whole
    whole.save(tmp_path / "no-suffix")
    assert Schedule.from_options({"schedule": str(tmp_path / "no-suffix")}) == whole
    with pytest.raises(ScheduleError, match=r"^--schedule: .* got --vision-merge\."):
        Schedule.from_options({"schedule": "none", "vision_merge": "16"})
    with pytest.raises(ScheduleError, match=r"^--vision-merge: .* such as 16, got 'x'"):
        Schedule.from_options({"vision_merge": "x"})
    with pytest.raises(ScheduleError, match=r"no\.yaml: expected a readable file"):
        Schedule.from_options({"schedule": "no.yaml"})
    long = "prune ratios:" + ",".join(["0.5"] * 200)  # longer than a file's name may be
    assert Schedule.from_options({"schedule": long}).label() == long
