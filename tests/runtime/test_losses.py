"""Losses and gradients: as without the patch, or those of the tokens that are left."""

import contextlib

import pytest
import torch
from torch.nn.functional import cross_entropy

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, patched
from aim_runtime.reference import Reference
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.models import prompt_of, tiny_llava_15, tiny_next, tiny_next_video
from tests.runtime.qwen import qwen_inputs, tiny_qwen
from tests.runtime.reference import embedded_video
from tests.runtime.support import VIDEO_TOKEN, left_padded, tiny_llava, video_inputs
from tests.runtime.test_qwen import Expected as QwenExpected

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
    (tiny_next, lambda: prompt_of(tiny_next(1), (3, (50, 100), 6))),
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


def prepared(model, train=False, checkpointing=None, call=None, autocast=False, dropout=0.2):
    if train:
        model.train()
        for layer in model.model.language_model.layers:
            layer.self_attn.attention_dropout = dropout
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
    schedule = Schedule(Merge(retention=0.5), prune)
    model = make()
    model.enable_input_require_grads()
    wanted = trained(model, given, schedule, "train")
    assert_same(trained(make(), given, schedule, name), wanted, atol=1e-5)


@pytest.mark.parametrize("prune", [PRUNE, INSIDE], ids=str)
def test_the_trace_tells_a_layer_once_that_is_computed_twice(llava, prune):
    inputs = video_inputs()
    with patched(llava, Schedule(prune=prune)) as trace:
        llava(**inputs)
        tokens, kept = trace.tokens, trace.kept
        step(llava, inputs, labels=answer_labels(inputs))
        prepared(llava, train=True, dropout=0.0, checkpointing={"use_reentrant": False})
        step(llava, inputs, labels=answer_labels(inputs))
    assert trace.tokens == tokens
    assert all(torch.equal(one, other) for one, other in zip(trace.kept, kept, strict=True))


def weighted(losses):
    """The mean of (loss, labels) over all labels."""
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


def alone(inputs, number):
    """One row of a batch of Qwen prompts with one video each, without its padding."""
    real = inputs["attention_mask"][number].bool()
    row = {
        name: inputs[name][number : number + 1, real]
        for name in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    sizes = inputs["video_grid_thw"]
    pixels = inputs["pixel_values_videos"].split(sizes.prod(dim=1).tolist())[number]
    row |= {"pixel_values_videos": pixels, "video_grid_thw": sizes[number : number + 1]}
    return row


def test_rows_that_lose_different_numbers_of_tokens():
    model = tiny_qwen("qwen2-vl")
    inputs = qwen_inputs("qwen2-vl", [3, (3, 6, 8), 9], [8, (2, 4, 4), 6])
    schedule = Schedule(Merge(retention=0.5), Prune(ratios=(1, 0.5)))
    with torch.no_grad(), patched(model, schedule):
        together = model(**inputs, labels=text_labels(inputs)).loss
        rows = []
        for number in range(2):
            row = alone(inputs, number)
            labels = text_labels(row)
            count = int((labels[:, 1:] != IGNORED).sum())
            rows.append((model(**row, labels=labels).loss, count))
    torch.testing.assert_close(together, weighted(rows), rtol=1e-4, atol=1e-4)
    assert abs(float(rows[0][0] - rows[1][0])) > 0.01, "labels of one row only"


@pytest.mark.parametrize("kind", ["qwen2-vl", "qwen2.5-vl"])
def test_the_loss_on_three_axes(kind):
    model, row = tiny_qwen(kind), [3, (3, 6, 8), 1, (2, 4, 4), 9]
    inputs = qwen_inputs(kind, row)
    schedule = Schedule(Merge(retention=0.4), Prune(ratios=(1, 0.5)))
    labels = text_labels(inputs)
    with torch.no_grad(), patched(model, schedule):
        found = model(**inputs, labels=labels).loss
        expected = QwenExpected(model, row, inputs, schedule)
    left = labels[0, expected.prompt.places][expected.kept[-1]]
    wanted = cross_entropy(expected.logits()[:-1], left[1:], ignore_index=IGNORED)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_padded_prompts(llava):
    prompts = [video_inputs(before=2), video_inputs(before=6, seed=3)]
    inputs = left_padded(prompts)
    labels = text_labels(inputs)
    labels[0, 4] = IGNORED  # the first word after padding, which padding would predict
    for schedule in SCHEDULES:
        with torch.no_grad(), patched(llava, schedule):
            together = llava(**inputs, labels=labels).loss
            rows = []
            for prompt in prompts:
                own = text_labels(prompt)
                count = int((own[:, 1:] != IGNORED).sum())
                rows.append((llava(**prompt, labels=own).loss, count))
        torch.testing.assert_close(together, weighted(rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("as_ids", [True, False])
def test_a_bare_language_model(qwen2, as_ids):
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, 3:15] = True
    ids = torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(2))
    labels = ids.masked_fill(mask, IGNORED)
    embeds = qwen2.get_input_embeddings()(ids).detach()
    given = {"input_ids": ids} if as_ids else {"inputs_embeds": embeds}
    with torch.no_grad(), patched(qwen2, Schedule(prune=PRUNE), visual_mask=mask) as trace:
        found = qwen2(**given, labels=labels).loss
    reference = Reference(qwen2.model, qwen2.lm_head)
    kept = reference.kept(embeds[0], mask[0], trace.tokens)
    logits = reference.logits(embeds[0], kept)[kept[-1]]
    wanted = cross_entropy(logits[:-1], labels[0, kept[-1]][1:], ignore_index=IGNORED)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
def test_the_number_of_items_divides_and_nothing_else(llava, schedule):
    inputs = video_inputs()
    labels = answer_labels(inputs)
    with torch.inference_mode(), patched(llava, schedule):
        mean = llava(**inputs, labels=labels).loss
        by_items = llava(**inputs, labels=labels, num_items_in_batch=10).loss
    torch.testing.assert_close(by_items, mean * 5 / 10)


def test_labels_of_the_last_logits_alone(llava):
    inputs = video_inputs()
    with torch.no_grad(), patched(llava, SCHEDULES[2]):
        labels = inputs["input_ids"][:, -4:]
        output = llava(**inputs, labels=labels, logits_to_keep=4)
        wanted = cross_entropy(llava(**inputs).logits[0, -4:-1], labels[0, 1:])
    torch.testing.assert_close(output.loss, wanted)


def test_a_loss_of_the_caller_s_own(llava):
    inputs, seen = video_inputs(), []

    def loss(logits, labels, vocab_size, **kwargs):
        seen.append((logits.shape[1], labels.shape[1]))
        return logits.sum()

    llava.loss_function = loss
    with torch.no_grad(), patched(llava, SCHEDULES[0]):
        llava(**inputs, labels=answer_labels(inputs))
    assert llava.loss_function is loss
    assert seen == [(12, 12)]


def test_labels_after_a_cached_prompt(llava):
    inputs = video_inputs()
    answer = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), patched(llava, SCHEDULES[2]):
        cache = cache_of(llava(**inputs))
        output = llava(input_ids=answer, labels=answer, **with_cache(cache))
    wanted = cross_entropy(output.logits[0, :-1], answer[0, 1:])
    torch.testing.assert_close(output.loss, wanted)


def wrong_at(inputs, place):
    labels = answer_labels(inputs)
    labels[0, place] = 3
    return {"labels": labels}


WRONG = {
    "visual": (lambda inputs: wrong_at(inputs, 20), "labels: expected -100 at visual tokens"),
    "padding": (lambda inputs: wrong_at(inputs, 0), "labels: expected -100 at padding"),
    "shifted": (
        lambda inputs: {"labels": answer_labels(inputs), "shift_labels": answer_labels(inputs)},
        "shift_labels",
    ),
}


@pytest.mark.parametrize(("change", "match"), WRONG.values(), ids=WRONG)
def test_refuses_a_loss_that_would_be_another_before_anything_runs(llava, change, match):
    inputs = left_padded([video_inputs(before=2), video_inputs(before=6, seed=3)])
    ran = []
    llava.model.vision_tower.register_forward_pre_hook(lambda *_: ran.append(True))
    for schedule in SCHEDULES:
        with patched(llava, schedule), pytest.raises(PatchError, match=match):
            llava(**inputs, **change(inputs))
    assert not ran
