"""Prompts of tiny models under schedules: the answer of the slow reference, or one clear error."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from aim_cost import AimError, Schedule
from aim_cost.errors import ScheduleError
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.merge import MERGE_KINDS, POSITIONS
from aim_runtime import patched
from tests.fuzz.asked import fuzzed, no_hang, one_line
from tests.fuzz.prompts import changed, written
from tests.runtime.agree import GREEDY, Undecided, assert_answers, expected
from tests.runtime.slow_scores import RANKINGS
from tests.runtime.support import state

_few = st.integers(1, 10)
_shares = st.sampled_from([1, 0.9, 0.6, 0.45, 0.3, 0.1])
_falling = st.lists(st.sampled_from([1, 0.7, 0.5, 0.3, 0.1, 0]), min_size=1, max_size=4).map(
    lambda found: ",".join(map(str, sorted(found, reverse=True)))
)
_selecting = [name for name, score in VISUAL_SCORES.items() if score.runs]


def _named(word: str, names: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(names).map(f" {word}={{}}".format)


_ranked = st.sampled_from(RANKINGS).map(
    lambda ranking: (
        f" score={ranking['importance']}"
        + (" drop=after-attention" if ranking["drop_point"] == "after_attention" else "")
    )
)
_joined = "".join
merges = st.tuples(
    st.just("merge "),
    st.one_of(_shares.map(str), _few.map("frame:{}".format), st.just("passes:5,3")),
    st.just("") | _named("by", [*MERGE_KINDS]),
    _named("positions", [*POSITIONS]),
).map(_joined)
selects = st.tuples(
    st.just("select "),
    st.one_of(_shares.map(str), _few.map("frame:{}".format), _few.map("prompt:{}".format)),
    _named("score", _selecting),
).map(_joined)
prunes = st.tuples(
    st.just("prune "),
    st.one_of(
        st.tuples(st.integers(0, 2), st.integers(1, 3)).map(lambda p: f"linear:{p[0]}:{sum(p)}"),
        _falling.map("ratios:{}".format),
        st.sampled_from(["layers:8,3", "layers:20,9,9,1"]),
    ),
    _ranked,
).map(_joined)
tower_merges = st.integers(1, 8).map("vision-merge {}".format)


@st.composite
def schedules(draw, family):
    """Schedules, most of which fit a model of ``family``; the towers of one take tower_merges."""
    parts = [
        draw(st.one_of(st.none(), merges, merges, selects, selects)),
        draw(st.one_of(st.none(), prunes)),
    ]
    if draw(st.integers(0, 3 if family == "onevision" else 40)) == 3:
        parts.append(draw(tower_merges))
    return ", ".join(filter(None, parts)) or "none"


def asked(batches):
    """A batch and a schedule for it."""
    return batches.flatmap(lambda batch: st.tuples(st.just(batch), schedules(batch.family)))


@pytest.fixture(autouse=True)
def _quick():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def tried(run: Callable[[], torch.Tensor]) -> torch.Tensor | Exception:
    """What a run returns, or the error with which it ends."""
    with no_hang():
        try:
            return run()
        except Exception as error:
            return error


def both(model, inputs):
    """Logits and greedy tokens, or the errors instead."""
    return (
        tried(lambda: model(**inputs).logits),
        tried(lambda: model.generate(**inputs, **GREEDY)),
    )


def same(one, other):
    if isinstance(one, Exception):
        return type(one) is type(other) and str(one) == str(other)
    return isinstance(other, torch.Tensor) and torch.equal(one, other)


def run_under(batch, text):
    """What the schedule ``text`` makes of a batch; None where it does not fit the model.

    An answer is that of the reference. An error is ours, or is that of the unpatched model.
    """
    model, inputs = batch.model, batch.call
    stock, before = both(model, inputs), state(model)
    schedule = Schedule.parse(text)
    try:
        with patched(model, schedule) as trace:
            found = both(model, inputs)
    except AimError as error:
        one_line(error)
        event("does not fit the model")
        return None
    assert state(model) == before
    assert all(map(same, stock, both(model, inputs))), "the model is another after its block"
    if schedule == Schedule():
        assert all(map(same, stock, found)), "a schedule that does nothing"
        return None
    for kind, ours, own in zip(("forward", "generate"), found, stock, strict=True):
        if isinstance(ours, AimError):
            one_line(ours)
        elif isinstance(ours, Exception):
            assert same(ours, own), (kind, ours, own)
        else:
            assert not isinstance(own, Exception), (kind, "unpatched refuses", own)
    assert not batch.embedded or all(isinstance(one, AimError) for one in found), found
    answered = [not isinstance(one, Exception) for one in found]
    if not all(answered):
        # a forward of Qwen wants types of tokens, which generate finds by itself
        assert not any(answered) or isinstance(stock[0], Exception), found
        event(f"refused: {type(found[0]).__name__}")
        return found[0]
    with no_hang(4):  # the reference is slow
        try:
            rows = expected(model, inputs, schedule)
        except Undecided:
            event("undecided")
            return found[0]
        event("answered")
        assert_answers(rows, inputs, trace, *found)
    return found[0]


@fuzzed(0.1)
@given(asked=asked(written()))
def test_a_prompt_as_written_is_answered_right(asked):
    answer = run_under(*asked)
    if isinstance(answer, Exception):
        assert isinstance(answer, ScheduleError), answer


@fuzzed(0.2)
@given(asked=asked(changed()))
def test_a_changed_prompt_is_answered_right_or_refused(asked):
    run_under(*asked)
