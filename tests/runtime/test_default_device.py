"""``torch.set_default_device``: what the patch keeps on the host stays on the host.

The device ``meta`` stands for ``cuda``: a tensor that lands there by mistake has no values.
"""

import contextlib
import functools

import numpy as np
import pytest
import torch

from aim_cost import ModelSpec, Schedule, Workload
from aim_runtime import patched
from aim_runtime.kernels.fastest_dtype import fastest_dtype
from aim_runtime.models.load import Loaded
from aim_runtime.models.smallest import smallest_model
from aim_runtime.patching.cuda_graph import StaticPrefill
from aim_runtime.prompts.inputs import sized_inputs
from aim_runtime.reduction.scores import LAYER_IMPORTANCE
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.models import BUILDERS, NAMES, named_inputs
from tests.runtime.qwen import qwen_inputs, tiny_qwen
from tests.runtime.support import left_padded, tiny_llava, tiny_qwen2, video_inputs

GREEDY = {"max_new_tokens": 3, "do_sample": False}
SCHEDULES = [
    "merge 0.5, prune linear:1:4",
    "merge 0.5 positions=kept, prune linear:1:4 drop=after-attention",
    "merge 0.5 by=random, prune linear:1:4 score=random",
    "vision-merge 4, prune linear:1:4 score=text-attention",
]


@contextlib.contextmanager
def elsewhere():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


def everything(model, inputs):
    """Answers, logits and a second turn."""
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    with torch.no_grad():
        logits = model(**inputs).logits
        step = model(input_ids=first.sequences[:, -1:], **with_cache(cache_of(first))).logits
    return [first.sequences, logits, step]


def assert_same(run):
    """``run`` gives the same with and without another default device."""
    expected = run()
    with elsewhere():
        found = run()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_llava_onevision(schedule):
    model, one = tiny_llava(), video_inputs()
    batch = left_padded([video_inputs(before=2), video_inputs(before=6, seed=3)])

    def run():
        with patched(model, Schedule.parse(schedule)):
            lookup = model.generate(**one, **GREEDY, prompt_lookup_num_tokens=2)
            return [lookup, *everything(model, one), *everything(model, batch)]

    assert_same(run)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if "vision" not in s])
@pytest.mark.parametrize(
    ("family", "name"),
    [pair for pair in NAMES if pair[0] != "next"],  # its images are those of next-video
)
def test_every_prompt_of_llava(family, name, schedule):
    model = BUILDERS[family]()
    inputs = named_inputs(model, family, name)

    def run():
        with patched(model, Schedule.parse(schedule)):
            return everything(model, inputs)

    assert_same(run)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if "vision" not in s])
def test_qwen(schedule, monkeypatch):
    model = tiny_qwen("qwen2.5-vl")
    inputs = qwen_inputs("qwen2.5-vl", [4, (2, 8, 8), 3], [2, (4, 8, 12), 5])
    on_host(model, monkeypatch)

    def run():
        with patched(model, Schedule.parse(schedule)):
            return everything(model, inputs)

    assert_same(run)


def on_host(model, monkeypatch):
    """Let what Qwen's own code makes on the default device lie on the host."""
    for owner, names in (
        (model.model, ("get_rope_index", "compute_3d_position_ids")),
        (model.model.visual, ("forward",)),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, in_context(getattr(owner, name)))


def in_context(function):
    @functools.wraps(function)
    def inside(*args, **kwargs):
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return inside


def test_every_score():
    model, mask = tiny_qwen2(), torch.arange(20)[None].remainder(17) >= 3
    embeds = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(2))

    def run():
        found = []
        for score in LAYER_IMPORTANCE:
            schedule = Schedule.parse(f"prune linear:1:4 score={score}")
            with patched(model, schedule, visual_mask=mask), torch.no_grad():
                found.append(model(inputs_embeds=embeds).logits)
        return found

    assert_same(run)


def test_a_static_prefill_and_inputs_of_a_size():
    model = smallest_model(type(tiny_llava(layers=1)))
    spec = ModelSpec.from_hf_config(model.config.to_dict())
    loaded = Loaded(model, spec, model.config, torch.device("cpu"), "float32", None)
    schedule = Schedule.parse("merge 0.5, prune linear:1:3")

    def run():
        inputs = sized_inputs(loaded, Workload(12, frames=3, batch=2))
        video = np.zeros((3, 8, 8, 3), np.uint8)
        return [
            StaticPrefill(loaded, schedule, inputs).run().logits,
            *sized_inputs(loaded, Workload(12, frames=3), video=video).values(),
        ]

    assert_same(run)


def test_small_models_and_speeds_of_the_host():
    kind = type(tiny_llava(layers=1))
    with elsewhere():
        assert next(smallest_model(kind).parameters()).device.type == "cpu"
        fastest_dtype(torch.device("cpu"))
