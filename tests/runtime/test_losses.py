"""Losses and gradients: as without the patch, or those of the tokens that are left."""

import contextlib

import pytest
import torch
from torch.nn.functional import cross_entropy

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.reference import Reference
from tests.runtime.models import tiny_llava_15, tiny_next_video
from tests.runtime.qwen import qwen_inputs, tiny_qwen
from tests.runtime.reference import embedded_video
from tests.runtime.support import VIDEO_TOKEN, tiny_llava, video_inputs

PRUNE = Prune(linear=(1, 4))
INSIDE = Prune(linear=(1, 4), drop_point="after_attention")
SCHEDULES = [
    Schedule(prune=PRUNE),
    Schedule(prune=INSIDE),
    Schedule(Merge(passes=(5, 3)), PRUNE),
    Schedule(Merge(passes=(5, 3), positions="kept"), INSIDE),
    Schedule(Merge(passes=(5, 3))),
]
IGNORED = -100


@pytest.fixture(autouse=True)
def _grad():
    with torch.enable_grad():
        yield


def answer_labels(inputs, words=5):
    """Labels at the last words alone, as in instruction tuning."""
    labels = inputs["input_ids"].clone()
    labels[:, :-words] = IGNORED
    return labels


def text_labels(inputs):
    """Labels at all text."""
    labels = inputs["input_ids"].clone()
    labels[labels >= 250] = IGNORED
    if "attention_mask" in inputs:
        labels[inputs["attention_mask"] == 0] = IGNORED
    return labels


def step(model, call, **options):
    """The loss of a call and its gradients by parameter, after which the model has none."""
    loss = model(**call, **options).loss
    loss.backward()
    gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    model.zero_grad()
    return loss.detach(), gradients


def assert_same(found, wanted, *, atol=0.0):
    torch.testing.assert_close(found[0], wanted[0], rtol=atol, atol=atol)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=atol, atol=atol, msg=name)


def slow_step(llava, inputs, labels, schedule):
    """``step`` by the reference, which masks the tokens that the schedule drops."""
    traces = []
    with torch.no_grad(), patched(llava, schedule) as trace:
        llava(**inputs)
        traces = list(trace.rows)
    embeds, visual, positions = embedded_video(llava, inputs, traces[0].merge_tokens)
    moves = schedule.merge is not None and schedule.merge.positions == "kept"
    reference = Reference(llava.model.language_model, llava.lm_head)
    reference._weights |= {
        f"model.{name}": x for name, x in llava.model.language_model.named_parameters()
    }
    total, count = torch.zeros(()), 0
    for row, (ids, own) in enumerate(zip(inputs["input_ids"], labels, strict=True)):
        at = positions[row] if moves else None
        with torch.no_grad():
            kept = reference.kept(embeds[row], visual[row], traces[row], positions=at)
        logits = reference.logits(embeds[row], kept, positions=at)[kept[-1]]
        left = torch.full(visual[row].shape, IGNORED)
        left[~visual[row]] = own[ids != VIDEO_TOKEN]
        left = left[kept[-1]]
        total = total + cross_entropy(logits[:-1], left[1:], reduction="sum", ignore_index=IGNORED)
        count += int((left[1:] != IGNORED).sum())
    loss = total / count
    loss.backward()
    gradients = {name: x.grad for name, x in llava.named_parameters() if x.grad is not None}
    llava.zero_grad()
    return loss.detach(), gradients


@pytest.mark.parametrize("labels_of", [answer_labels, text_labels])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
def test_the_loss_is_that_of_the_tokens_left(llava, schedule, labels_of):
    inputs = video_inputs(batch=2)
    labels = labels_of(inputs)
    wanted = slow_step(llava, inputs, labels, schedule)
    with patched(llava, schedule):
        found = step(llava, inputs, labels=labels, use_cache=False)
    assert_same(found, wanted, atol=1e-4)
    assert any("vision_tower" in name for name in found[1])


MODELS = [
    (tiny_llava, lambda: video_inputs(batch=2)),
    (tiny_next_video, None),
    (tiny_llava_15, None),
    (lambda: tiny_qwen("qwen2-vl"), lambda: qwen_inputs("qwen2-vl", [5, (2, 4, 4), 6])),
    (lambda: tiny_qwen("qwen2.5-vl"), lambda: qwen_inputs("qwen2.5-vl", [5, (2, 4, 4), 6])),
]


def next_video_inputs():
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[7, 8, 9, *[VIDEO_TOKEN] * 18, 10, 11, 12, 13, 14, 15]])
    pixels = torch.randn(1, 2, 3, 30, 30, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}


def image_inputs():
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[7, 8, 9, *[251] * 9, 10, 11, 12, 13, 14, 15]])
    pixels = torch.randn(1, 3, 15, 15, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


INPUTS = {tiny_next_video: next_video_inputs, tiny_llava_15: image_inputs}
TRAINING = {
    "plain": {},
    "train": {"train": True},
    "checkpoint": {"train": True, "checkpointing": {"use_reentrant": False}},
    "reentrant": {"train": True, "checkpointing": {"use_reentrant": True}},
    "items": {"call": {"num_items_in_batch": torch.tensor(9)}},
    "autocast": {"autocast": True},
    "cache": {"call": {"use_cache": True}},
}


def prepared(model, train=False, checkpointing=None, call=None, autocast=False):
    if train:
        model.train()
        model.model.language_model.config.attention_dropout = 0.2
        for layer in model.model.language_model.layers:
            layer.self_attn.attention_dropout = 0.2
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
        model.enable_input_require_grads()
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    return call or {}, context


def trained(model, inputs, schedule, name, labels=None):
    call, context = prepared(model, **TRAINING[name])
    labels = answer_labels(inputs) if labels is None else labels
    torch.manual_seed(3)
    with context, patched(model, schedule) if schedule else contextlib.nullcontext():
        return step(model, inputs, labels=labels, **call)


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize(("make", "inputs"), MODELS)
def test_the_empty_schedule_trains_as_no_patch(make, inputs, name):
    given = (inputs or INPUTS[make])()
    wanted = trained(make(), given, None, name)
    assert_same(trained(make(), given, Schedule(), name), wanted)


@pytest.mark.parametrize("name", ["checkpoint", "reentrant"])
@pytest.mark.parametrize(("make", "inputs"), MODELS)
@pytest.mark.parametrize("prune", [PRUNE, INSIDE, None], ids=str)
def test_gradient_checkpointing_changes_no_gradient(make, inputs, name, prune):
    given = (inputs or INPUTS[make])()
    schedule = Schedule(Merge.parse("0.5"), prune)
    without = {"train": True, "call": {"use_cache": False}}
    TRAINING["without"] = without
    model = make()
    model.enable_input_require_grads()
    wanted = trained(model, given, schedule, "without")
    assert_same(trained(make(), given, schedule, name), wanted, atol=1e-5)
