"""Every argument of a model's forward: as without the patch, right under a schedule, or refused."""

import inspect

import pytest
import torch
from torch import Tensor
from transformers.utils import TransformersKwargs

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, patched
from aim_runtime.reference import Reference
from tests.runtime.forward_arguments import CASES, KINDS, Reduced
from tests.runtime.qwen import qwen_inputs, rope_table, tiny_qwen
from tests.runtime.reference import embedded_video
from tests.runtime.support import video_inputs

PRUNE = Prune(ratios=(1, 0.5))
PASSED_ON = {*TransformersKwargs.__annotations__, "return_dict", "shift_labels"}


def arguments(model):
    named = set(inspect.signature(type(model).forward).parameters) - {"self", "kwargs"}
    return named | PASSED_ON


def schedule_of(kind):
    return (
        Schedule(prune=PRUNE)
        if kind.visual_mask is not None
        else Schedule(Merge(retention=0.5), PRUNE)
    )


def flat(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [one for part in value for one in flat(part)]
    return [value] if isinstance(value, Tensor) else []


def outcome(model, case, inputs):
    torch.manual_seed(1)
    call = case.change(model, dict(inputs))
    try:
        return model(**call)
    except Exception as error:
        return error


def logits_of(output):
    if not isinstance(output, tuple):
        return output.logits
    return next(x for x in output if isinstance(x, Tensor) and x.dim() == 3)


def rows():
    for name, kind in KINDS.items():
        inputs = kind.inputs(kind.make())
        for argument in sorted(arguments(kind.make()) & CASES.keys()):
            for label, case in CASES[argument].items():
                described = argument in inputs or argument not in DATA
                if described:
                    yield pytest.param(name, argument, case, id=f"{name}-{argument}-{label}")


DATA = {name for name in CASES if "pixel" in name or "grid" in name or "image_sizes" in name}
DATA |= {"mm_token_type_ids", "batch_num_images"}
ROWS = list(rows())


def with_attention(model, argument):
    model.set_attn_implementation("eager" if argument == "output_attentions" else "sdpa")
    return model


@pytest.mark.parametrize("name", KINDS)
def test_the_table_has_every_argument(name):
    assert sorted(arguments(KINDS[name].make()) - CASES.keys()) == []


@pytest.mark.parametrize(("name", "argument", "case"), ROWS)
def test_the_empty_schedule_is_no_patch(name, argument, case):
    kind = KINDS[name]
    model = with_attention(kind.make(), argument)
    inputs = kind.inputs(model)
    wanted = outcome(model, case, inputs)
    for mask in (None, kind.visual_mask) if kind.visual_mask is None else (kind.visual_mask,):
        with patched(model, Schedule(), visual_mask=mask):
            found = outcome(model, case, inputs)
        if isinstance(wanted, Exception):
            assert (type(found), str(found)) == (type(wanted), str(wanted))
            continue
        assert not isinstance(found, Exception), f"{found!r}"
        assert type(found) is type(wanted)
        assert len(flat(found)) == len(flat(wanted))
        for one, other in zip(flat(found), flat(wanted), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "argument", "case"), ROWS)
def test_a_schedule_is_right_or_refuses(name, argument, case):
    kind = KINDS[name]
    model = with_attention(kind.make(), argument)
    inputs = kind.inputs(model)
    without = outcome(model, case, inputs)
    with patched(model, schedule_of(kind), visual_mask=kind.visual_mask):
        plain = model(**inputs).logits
        found = outcome(model, case, inputs)
    if isinstance(without, Exception):
        assert isinstance(found, PatchError | type(without))
        return
    reduced = case.bare if kind.visual_mask is not None and case.bare else case.reduced
    refused = isinstance(found, PatchError) and (case.named or argument) in str(found)
    if reduced is Reduced.REFUSED or (reduced is Reduced.ELSEWHERE and refused):
        assert refused, f"{found!r}"
        return
    assert not isinstance(found, Exception), f"{found!r}"
    if reduced is Reduced.ELSEWHERE:
        return
    logits = logits_of(found)
    if reduced is Reduced.LAST:
        plain = plain[:, -logits.shape[1] :]
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


BOTH = Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4)))
INSIDE = Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4), drop_point="after_attention"))


def reference_of(llava, inputs, schedule):
    """The reference, its prompt [n, H], and what each layer keeps of it."""
    with patched(llava, schedule) as trace:
        llava(**inputs)
    embeds, visual, _ = embedded_video(llava, inputs, trace.tokens.merge_tokens)
    reference = Reference(llava.model.language_model, llava.lm_head)
    return reference, embeds[0], reference.kept(embeds[0], visual[0], trace.tokens)


@pytest.mark.parametrize("schedule", [BOTH, INSIDE], ids=Schedule.label)
def test_hidden_states_and_attentions_are_those_of_the_tokens_left(llava, schedule):
    llava.set_attn_implementation("eager")
    inputs = video_inputs()
    reference, x, kept = reference_of(llava, inputs, schedule)
    with patched(llava, schedule):
        output = llava(**inputs, output_hidden_states=True, output_attentions=True)
    hidden, attentions = output.hidden_states, output.attentions
    assert (len(hidden), len(attentions)) == (7, 6)
    torch.testing.assert_close(hidden[0][0], x[kept[0]])
    for layer in range(6):
        x, logits = reference._layer(layer, x, kept[layer], None)
        here = logits.softmax(-1)[:, kept[layer]][..., kept[layer]]
        torch.testing.assert_close(attentions[layer][0], here, rtol=1e-3, atol=1e-4)
        left = kept[layer + 1] if schedule is INSIDE else kept[layer]
        if layer < 5:
            torch.testing.assert_close(hidden[layer + 1][0], x[left], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(llava.lm_head(hidden[6]), output.logits)


def test_positions_of_a_caller_s_own_are_kept_on_three_axes():
    model = tiny_qwen("qwen2.5-vl")
    inputs = qwen_inputs("qwen2.5-vl", [4, (3, 6, 8), 6])
    slower = inputs | {"second_per_grid_ts": inputs["second_per_grid_ts"] * 3}
    with patched(model, Schedule(Merge(retention=0.5), PRUNE)):
        found, plain = model(**slower).logits, model(**inputs).logits
        given = model(**inputs, position_ids=rope_table(model, slower)).logits
    assert torch.equal(found, given)
    assert (found - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["onevision video", "llava-1.5", "next-video"])
def test_another_layer_of_the_tower_is_as_a_config_that_says_so(name):
    kind = KINDS[name]
    model = kind.make()
    inputs, schedule = kind.inputs(model), schedule_of(kind)
    with patched(model, schedule):
        found, plain = model(**inputs, vision_feature_layer=1).logits, model(**inputs).logits
    model.config.vision_feature_layer = 1
    with patched(model, schedule):
        assert torch.equal(model(**inputs).logits, found)
    assert (found[:, -1] - plain[:, -1]).abs().max() > 1e-3


def test_the_class_token_of_the_tower_may_be_asked_for():
    model = KINDS["llava-1.5"].make()
    model.config.vision_feature_select_strategy = "full"
    inputs = KINDS["llava-1.5"].inputs(model)
    with patched(model, schedule_of(KINDS["llava-1.5"])):
        wanted = model(**inputs).logits
    model.config.vision_feature_select_strategy = "default"
    with patched(model, schedule_of(KINDS["llava-1.5"])):
        found = model(**inputs, vision_feature_select_strategy="full").logits
    assert torch.equal(found, wanted)


def test_a_run_that_nobody_could_see_leaves_no_trace(llava):
    inputs = video_inputs()
    with patched(llava, Schedule()) as trace:
        llava(**inputs)
        assert trace.tokens.prompt_tokens == 49
        llava(**inputs | {"attention_mask": torch.tensor([[1] * 48 + [0]])})
        with pytest.raises(PatchError, match=r"could not be seen: attention_mask.* padding at"):
            _ = trace.tokens
        assert (trace.kept, trace.rows, trace.cache_tokens) == ((), (), ())
        llava(**inputs)
        assert trace.tokens.prompt_tokens == 49
