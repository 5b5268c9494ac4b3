"""Every argument of ``generate``: as without the patch, right under a schedule, or refused."""

import inspect

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, patched
from tests.runtime.generate_arguments import CASES, KEPT_BY_TRANSFORMERS, PROMPT
from tests.runtime.oracle import answering, video_rows
from tests.runtime.qwen import qwen_inputs, tiny_qwen
from tests.runtime.support import tiny_llava, video_inputs

RECOUNTED = Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4)))
KEPT = Schedule(Merge(passes=(5, 3), positions="kept"), RECOUNTED.prune)
FIELDS = set(vars(GenerationConfig())) - KEPT_BY_TRANSFORMERS
ARGUMENTS = set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
KNOWN = sorted(CASES.keys() & (FIELDS | ARGUMENTS))
"""What this version of transformers takes."""


def flat(value):
    """Tensors and plain values inside a result."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [one for part in value for one in flat(part)]
    return [value] if isinstance(value, Tensor | int | float | str) else []


def run(model, inputs, case, given=None):
    """What a call gives, with what the caller's objects saw; or its error."""
    given = {"max_new_tokens": 4, "do_sample": False} | (
        case.given(model) if given is None else given
    )
    if "generation_config" in given:
        del given["max_new_tokens"]
    if "inputs" in given:
        inputs = dict(inputs)
        given["inputs"] = inputs.pop("input_ids")
    torch.manual_seed(5)
    try:
        output = model.generate(**inputs, **given)
    except Exception as error:
        return error
    return [output, case.seen(given) if case.seen else None]


def assert_same(found, wanted, *, exact):
    if isinstance(wanted, Exception):
        assert type(found) is type(wanted), f"{wanted!r}, but {found!r}"
        assert str(found) == str(wanted)
        return
    assert not isinstance(found, Exception), f"{found!r}"
    found, wanted = flat(found), flat(wanted)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        if exact or not isinstance(one, Tensor) or not one.is_floating_point():
            assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
        else:
            torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_the_table_has_every_argument():
    assert sorted((FIELDS | ARGUMENTS) - CASES.keys()) == []


@pytest.mark.parametrize("name", KNOWN)
def test_the_empty_schedule_is_no_patch(name):
    case = CASES[name]
    for model, inputs in (
        (tiny_llava(), video_inputs()),
        (tiny_qwen("qwen2.5-vl"), qwen_inputs("qwen2.5-vl", [10, (3, 6, 8), 10])),
    ):
        model.set_attn_implementation("eager" if "attentions" in name else "sdpa")
        wanted = run(model, inputs, case)
        with patched(model, Schedule()):
            found = run(model, inputs, case)
        assert_same(found, wanted, exact=True)


@pytest.mark.parametrize("name", sorted(FIELDS & CASES.keys()))
def test_a_checkpoint_s_own_config_is_heard_as_without_the_patch(llava, name):
    case, inputs = CASES[name], video_inputs()
    for field, value in case.given(llava).items():
        if field in FIELDS:
            setattr(llava.generation_config, field, value)
    rest = {name: value for name, value in case.given(llava).items() if name not in FIELDS}

    def call():
        torch.manual_seed(5)
        limit = {} if llava.generation_config.max_length else {"max_new_tokens": 3}
        try:
            return [llava.generate(**inputs, **rest, **limit)]
        except Exception as error:
            return error

    wanted = call()
    with patched(llava, Schedule()):
        assert_same(call(), wanted, exact=True)


@pytest.mark.parametrize("schedule", [RECOUNTED, KEPT], ids=["recounted", "kept"])
@pytest.mark.parametrize("name", KNOWN)
def test_a_schedule_sees_the_caller_s_prompt(llava, name, schedule):
    case, inputs = CASES[name], video_inputs()
    llava.set_attn_implementation("eager" if "attentions" in name else "sdpa")
    without = run(llava, inputs, case)
    with patched(llava, schedule):
        found = run(llava, inputs, case)
    if case.refused:
        assert isinstance(found, PatchError), f"{found!r}"
        assert name in str(found)
        return
    if isinstance(without, Exception):
        assert_same(found, without, exact=True)
        return
    with answering(llava, PROMPT, video_rows(llava, inputs, schedule)):
        wanted = run(llava, inputs, case, case.answer)
    assert not isinstance(found, Exception) and not isinstance(wanted, Exception), (found, wanted)
    if case.answer is not None:  # of all that comes back, the tokens
        found, wanted = (getattr(one[0], "sequences", one[0]) for one in (found, wanted))
    assert_same(found, wanted, exact=False)
