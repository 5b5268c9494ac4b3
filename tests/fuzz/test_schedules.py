"""Schedules as text and as files: one meaning, or one clear error."""

import json

from hypothesis import given
from hypothesis import strategies as st

from aim_cost import Schedule, Workload, load_model_spec
from aim_cost.files.yaml_text import yaml_text
from aim_cost.schedules.schedule import PARTS
from tests.fuzz.asked import fuzzed, numbers, refused
from tests.fuzz.schedules import schedules

MODELS = [load_model_spec(f"llava-onevision-qwen2-{size}") for size in ("0.5b", "7b")]
MODELS += [load_model_spec("qwen2.5-vl-7b")]


@fuzzed(0.16)
@given(text=schedules)
def test_a_text_reads_back_from_every_form(text, tmp_path_factory):
    schedule = refused(Schedule.parse, text)
    if schedule is None:
        return
    assert Schedule.parse(schedule.label()) == schedule
    assert Schedule.from_dict(schedule.to_dict()) == schedule
    folder = tmp_path_factory.getbasetemp()
    for name, content in (
        ("s.yaml", yaml_text(schedule.to_dict())),
        ("s.json", json.dumps(schedule.to_dict())),
        ("text.json", json.dumps(schedule.label())),
    ):
        (folder / name).write_text(content)
        assert Schedule.from_argument(str(folder / name)) == schedule
    parts = {name: part.label() for name, part in _parts(schedule)}
    assert Schedule.from_options(parts) == schedule


def _parts(schedule):
    return [(name, getattr(schedule, name)) for name in PARTS if getattr(schedule, name)]


@fuzzed(0.1)
@given(
    text=schedules,
    model=st.sampled_from(MODELS),
    frames=st.integers(1, 70),
    text_tokens=st.integers(1, 200),
    batch=st.integers(1, 3),
)
def test_token_counts_fall_and_keep_the_text(text, model, frames, text_tokens, batch):
    schedule = refused(Schedule.parse, text)
    if schedule is None:
        return
    workload = Workload(text_tokens, frames=frames, batch=batch)
    trace = refused(schedule.resolve, model, workload)
    if trace is None:
        return
    whole = workload.visual_input(model)
    most = whole.groups * whole.group_tokens + whole.newline_tokens + text_tokens
    late = schedule.prune is not None and schedule.prune.inject_at > 0
    for tokens in (trace.attention_tokens, trace.mlp_tokens):
        assert len(tokens) == model.text.num_hidden_layers
        assert all(text_tokens <= count <= most for count in tokens)
        assert late or list(tokens) == sorted(tokens, reverse=True)
    assert trace.batch == batch
    merged = trace.merge_tokens
    assert list(merged) == sorted(merged, reverse=True) and merged[-1] >= 1
    if schedule == Schedule():
        assert set(trace.attention_tokens) == {most}


@fuzzed(0.02)
@given(given_text=schedules, kind=st.sampled_from([str, list, dict, float, bytes, type(None)]))
def test_anything_where_a_schedule_is_expected(given_text, kind):
    wrong = {
        str: given_text, list: [given_text], dict: {given_text: 1}, float: 0.25,
        bytes: given_text.encode(), type(None): None,
    }[kind]  # fmt: skip
    for read in (Schedule.of, Schedule.all_of, Schedule.from_dict, Schedule.read):
        refused(read, wrong)


@fuzzed(0.04)
@given(
    options=st.dictionaries(
        st.sampled_from([*PARTS, "schedule"]), st.one_of(schedules, numbers, st.none())
    )
)
def test_options_of_a_schedule(options):
    found = refused(Schedule.from_options, options)
    if found is not None:
        assert Schedule.parse(found.label()) == found
