"""Patched runs of every family: traces and FLOPs predicted equal those that ran, phase by phase.

Tiny models of the real classes on the CPU, from pixels to the first token, through ``load`` and
``sized_inputs``.
"""

import functools

import pytest
import torch

from aim_cost import Schedule, Workload, load_hardware
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, load, patched
from aim_runtime.errors import InputError
from aim_runtime.patching.cuda_graph import StaticPrefill
from aim_runtime.patching.masked import masked
from aim_runtime.prompts.inputs import question_inputs, sized_inputs
from aim_runtime.validation.counts import check_counts
from tests.contract.test_memory_models import small_config
from tests.runtime.models import tiny_llava_15, tiny_next, tiny_next_video
from tests.runtime.support import tiny_llava

SCHEDULES = [
    Schedule(),
    Schedule.parse("merge 0.4 positions=kept, prune linear:0:2"),
    Schedule.parse("merge frame:3, prune ratios:0.5 score=text-attention drop=after-attention"),
    *(
        Schedule(prune=Prune(ratios=(0.6, 0.3), importance=name))
        for name, score in LAYER_SCORES.items()
        if score.runs and name not in ("pagerank", "text-attention")
    ),
]


def with_other_parts(family, root, text, vision):
    """A config of the family with an LLM and a tower that others of it have."""
    config = CONFIGS[family]()
    for name, fields in (("text_config", text), ("vision_config", vision)):
        kept = {key: config[name][key] for key in SIZES if key in config[name]}
        config[name] = kept | fields
    return config | root


SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size", "image_size", "patch_size"),
)
QWEN2, LLAMA = {"model_type": "qwen2"}, {"model_type": "llama"}
CLIP = {"model_type": "clip_vision_model"}
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False}
FULL = {"vision_feature_select_strategy": "full"}
CONFIGS = {
    "llava-siglip": lambda: with_other_parts("llava-1.5", FULL, QWEN2, SIGLIP),
    "llava-siglip-default": lambda: with_other_parts("llava-1.5", {}, LLAMA, SIGLIP),
    "llava-siglip-head": lambda: with_other_parts(
        "llava-1.5", FULL, LLAMA, {"model_type": "siglip_vision_model"}
    ),
    "next-siglip": lambda: with_other_parts("llava-next", FULL, QWEN2, SIGLIP),
    "next-video-other": lambda: with_other_parts("llava-next-video", {}, QWEN2, CLIP),
    "next-video-biases": lambda: with_other_parts(
        "llava-next-video",
        {"multimodal_projector_bias": False},
        LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 24},
        CLIP,
    ),
    "llava-1.5": lambda: tiny_llava_15().config.to_dict(),
    "llava-1.5-full": lambda: tiny_llava_15(select="full").config.to_dict(),
    "llava-next": lambda: tiny_next().config.to_dict(),
    "llava-next-video": lambda: tiny_next_video().config.to_dict(),
    "llava-onevision": lambda: tiny_llava().config.to_dict(),
    "qwen2-vl": lambda: small_config("qwen2-vl-7b", 256),
    "qwen2.5-vl": lambda: small_config("qwen2.5-vl-7b", 256),
    "qwen3-vl": lambda: small_config("qwen3-vl-8b", 256),
}
WORKLOADS = [
    ("llava-siglip", {"image_tokens": 9}),
    ("llava-siglip-default", {"image_tokens": 8}),
    ("llava-siglip-head", {"image_tokens": 18}),
    ("next-video-other", {"frames": 3}),
    ("next-video-other", {"images": ((50, 100),)}),
    ("next-video-biases", {"frames": 2}),
    ("llava-1.5", {"image_tokens": 9}),
    ("llava-1.5", {"image_tokens": 27, "batch": 2}),
    ("llava-1.5", {"images": ((40, 30), (9, 50))}),
    ("llava-1.5-full", {"image_tokens": 20}),
    ("next-siglip", {"images": ((100, 40),)}),
    ("llava-next", {"images": ((50, 100),), "batch": 2}),
    ("llava-next", {"images": ((20, 20), (100, 40), (40, 90))}),
    ("llava-next-video", {"frames": 3, "batch": 2}),
    ("llava-next-video", {"images": ((50, 100),)}),
    ("llava-next-video", {"images": ((50, 100), (100, 40), (40, 90)), "batch": 2}),
    ("llava-onevision", {"frames": 3, "batch": 2}),
    ("llava-onevision", {"images": ((100, 140),)}),
    ("llava-onevision", {"images": ((100, 140), (150, 150)), "batch": 2}),
    ("qwen2-vl", {"frames": 3, "frame_size": (84, 140), "batch": 2}),
    ("qwen2-vl", {"images": ((100, 140), (90, 60)), "batch": 2}),
    ("qwen2.5-vl", {"frames": 3, "frame_size": (84, 140), "batch": 2}),
    ("qwen2.5-vl", {"image_tokens": 25}),
    ("qwen3-vl", {"frames": 5, "frame_size": (96, 160), "batch": 2}),
    ("qwen3-vl", {"images": ((300, 200), (250, 300))}),
]


@functools.cache
def loaded(family):
    return load(CONFIGS[family](), "cpu", "float32", random_weights=True)


@pytest.mark.parametrize(("family", "pixels"), WORKLOADS)
def test_traces_and_flops_are_exact(family, pixels):
    model, workload = loaded(family), Workload(text_tokens=9, **pixels)
    for row in check_counts(model, workload, SCHEDULES, load_hardware("h100-sxm")):
        assert row.traces_equal, row.differences
        assert row.flops_equal, row.differences
        assert row.counted["vision.tower"] > 0
        assert row.counted["vision.projector"] > 0


@pytest.mark.parametrize(("family", "pixels"), WORKLOADS)
def test_sized_inputs_have_the_tokens_of_the_workload(family, pixels):
    model, workload = loaded(family), Workload(text_tokens=9, **pixels)
    inputs = sized_inputs(model, workload)
    trace = Schedule().resolve(model.spec, workload)
    assert inputs["input_ids"].shape == (workload.batch, trace.prompt_tokens)
    if "qwen" in family:
        kind = 1 if workload.frames is None else 2
        visual = (inputs["mm_token_type_ids"] == kind).sum(dim=1)
        assert visual.tolist() == [trace.visual_tokens] * workload.batch
    schedule = SCHEDULES[1]
    with torch.no_grad(), patched(model.model, schedule):
        new = model.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(new[:, :-2], inputs["input_ids"])


@pytest.mark.parametrize(
    ("family", "workload", "match"),
    [
        ("llava-1.5", Workload(9, image_tokens=8), "a multiple of 9"),
        ("llava-next", Workload(9, image_tokens=36), "--image HEIGHTxWIDTH"),
        ("llava-next-video", Workload(9, image_tokens=36), "--image HEIGHTxWIDTH"),
        ("qwen2-vl", Workload(2, images=((84, 84), (84, 84))), "at least 3"),
        ("qwen3-vl", Workload(3, frames=6, frame_size=(96, 96)), "3 temporal patches touches"),
    ],
)
def test_pixels_that_no_processor_writes_are_refused(family, workload, match):
    with pytest.raises(InputError, match=match):
        sized_inputs(loaded(family), workload)


@pytest.mark.parametrize("family", ["llava-1.5", "llava-next", "llava-next-video", "qwen2-vl"])
def test_what_knows_llava_onevision_alone_says_so(family):
    model, pixels = loaded(family), next(p for f, p in WORKLOADS if f == family)
    video = torch.zeros(3, 8, 8, 3, dtype=torch.uint8).numpy()
    inputs = sized_inputs(model, Workload(9, **pixels))
    for call in (
        lambda: StaticPrefill(model, Schedule(), inputs),
        lambda: masked(model.model, Schedule()).__enter__(),
        lambda: question_inputs(model, video, "what?"),
        lambda: sized_inputs(model, Workload(9, frames=3), video=video),
    ):
        with pytest.raises(PatchError, match=r"a LLaVA-OneVision, got .*ConditionalGeneration"):
            call()
