"""Merging in the vision tower: against ToMe token by token, against its price, and undone."""

import json
import sys

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from aim_cost import ModelSpec, Schedule, Workload, estimate, load_hardware
from aim_cost.errors import ScheduleError
from aim_runtime import PatchError, patch, patched
from aim_runtime.cli.main import main
from aim_runtime.measurement.flops import count_flops
from aim_runtime.models.load import Loaded
from aim_runtime.patching.masked import masked
from aim_runtime.reduction.merge import match_tokens
from tests.runtime.slow_tower import slow_tower
from tests.runtime.support import IMAGE_TOKEN, mask_of, state, tiny_config, tiny_llava, video_inputs

CPU = load_hardware("cpu-generic")
VIDEO = Workload(text_tokens=12, frames=4)
FORMS = (
    "vision-merge 5",
    "vision-merge 5 attention=plain",
    "vision-merge 3 layers=1-2",
    "vision-merge 8 layers=0-0",
    "vision-merge 12 layers=3-3 attention=plain",
)


@pytest.fixture
def model():
    return tiny_llava(layers=4, vision_layers=4)


def spec_of(model):
    return ModelSpec.from_hf_config(model.config.to_dict(), name="tiny")


def encoded(model, frames):
    """The hidden state that LLaVA-OneVision reads."""
    return model.model.vision_tower(frames, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("form", FORMS)
def test_equals_tome_token_by_token(model, form, attention):
    model.set_attn_implementation(attention)
    merge = Schedule.parse(form).vision_merge
    frames = video_inputs(frames=2)["pixel_values_videos"][0]
    with patched(model, Schedule.parse(form)) as trace:
        ours = encoded(model, frames)
    tower, layers = model.model.vision_tower, merge.merging_layers(4)
    proportional = merge.attention == "proportional"
    theirs, counts = slow_tower(tower, frames, merge.remove, layers, proportional)
    assert trace.tower.tokens == tuple(counts) == merge.token_counts(25, 4)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-5)
    assert [len(set(map(tuple, frame.tolist()))) for frame in ours] == [counts[-1]] * 2


@pytest.mark.parametrize(
    "schedule",
    [
        *(Schedule.parse(form) for form in FORMS),
        Schedule.parse("vision-merge 5, merge passes:5,3, prune linear:0:3"),
        Schedule.parse("vision-merge 5, merge frame:4 positions=kept"),
    ],
    ids=Schedule.label,
)
@pytest.mark.parametrize("batch", [1, 2])
def test_trace_and_flops_are_those_predicted(model, schedule, batch):
    spec, workload = spec_of(model), Workload(text_tokens=12, frames=4, batch=batch)
    loaded = Loaded(model, spec, model.config, torch.device("cpu"), "float32", None)
    inputs = video_inputs(batch=batch)
    counted, tokens = count_flops(
        loaded, schedule, lambda: model(**inputs, use_cache=True, logits_to_keep=1)
    )
    predicted = estimate(spec, workload, schedule, CPU)
    assert tokens == predicted.trace
    assert tokens.tower_tokens[-1] < 25
    for phase in ("vision.tower", "vision.projector", "merge", "llm.layers"):
        assert counted.get(phase, 0) == predicted.phase(phase).flops, phase


def test_sizes_weigh_in_the_attention(model):
    frames = video_inputs()["pixel_values_videos"][0]
    found = []
    for form in ("vision-merge 5", "vision-merge 5 attention=plain"):
        with patched(model, Schedule.parse(form)):
            found.append(encoded(model, frames))
    assert (found[0] - found[1]).abs().max() > 1e-2
    # nothing attends after the last layer has merged
    for form in ("vision-merge 8 layers=3-3", "vision-merge 8 layers=3-3 attention=plain"):
        with patched(model, Schedule.parse(form)):
            found.append(encoded(model, frames))
    assert torch.equal(found[2], found[3])


def test_averages_weigh_sizes_and_places_are_followed():
    generator = torch.Generator().manual_seed(3)
    x, sizes = torch.randn(2, 9, 6, generator=generator), torch.ones(2, 9, 1)
    members = [[{i} for i in range(9)] for _ in range(2)]
    places, every = torch.arange(9).expand(2, -1), x.clone()
    for remove in (4, 2, 1):
        plan = match_tokens(x, remove)
        went = plan.follow(torch.arange(x.shape[1]).expand(2, -1))
        for frame in range(2):
            joined = [set() for _ in range(x.shape[1] - remove)]
            for token, target in enumerate(went[frame].tolist()):
                joined[target] |= members[frame][token]
            members[frame] = joined
        x, sizes = plan.average(x, sizes)
        places = plan.follow(places)
    for frame in range(2):
        assert sizes[frame, :, 0].tolist() == [len(group) for group in members[frame]]
        for token, group in enumerate(members[frame]):
            torch.testing.assert_close(x[frame, token], every[frame, sorted(group)].mean(dim=0))
            assert all(places[frame, place] == token for place in group)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_unpatching_restores_every_bit(model, attention):
    model.set_attn_implementation(attention)
    inputs = video_inputs()
    expected = model(**inputs).logits
    before = state(model)
    for schedule in (
        Schedule.parse("vision-merge 5"),
        Schedule.parse("vision-merge 5 layers=1-2 attention=plain, merge passes:5"),
    ):
        with patched(model, schedule):
            assert not torch.equal(model(**inputs).logits[:, -12:], expected[:, -12:])
            assert state(model) != before
        assert state(model) == before
        assert torch.equal(model(**inputs).logits, expected)


def test_a_run_that_fails_in_the_tower_does_not_disturb_the_next(model):
    inputs = video_inputs()
    with patched(model, Schedule.parse("vision-merge 5")) as trace:
        expected = model(**inputs).logits
        norm = model.model.vision_tower.encoder.layers[2].layer_norm2
        handle = norm.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
        handle.remove()
        assert torch.equal(model(**inputs).logits, expected)
        assert trace.tokens.tower_tokens == (25, 20, 15, 10, 5)


def test_answers_follow_ups_and_text_alone(model):
    inputs = video_inputs()
    with patched(model, Schedule.parse("vision-merge 5, merge passes:5")) as trace:
        new = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert new.shape == (1, inputs["input_ids"].shape[1] + 4)
        assert trace.tokens == Schedule.parse("vision-merge 5, merge passes:5").resolve(
            spec_of(model), VIDEO
        )
        model(input_ids=torch.arange(9)[None])
        assert trace.tokens.tower_tokens == ()


def test_images_pass_the_same_tower(model):
    # 75 x 75: the whole image and one crop, 25 places each, and 5 newlines
    ids = torch.tensor([[1, 2, *[IMAGE_TOKEN] * 55, 3]])
    pixels = torch.randn(1, 2, 3, 75, 75, generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "pixel_values": pixels, "image_sizes": torch.tensor([[75, 75]])}
    with patched(model, Schedule.parse("vision-merge 5")) as trace:
        model(**inputs)
    assert trace.tokens.tower_tokens == (25, 20, 15, 10, 5)


def test_masked_runs_merge_in_the_tower_too(model):
    with masked(model, Schedule.parse("vision-merge 5, prune linear:0:3")) as trace:
        model(**video_inputs())
    assert trace.tokens.tower_tokens == (25, 20, 15, 10, 5)


def refused(model, schedule, match, **arguments):
    before = state(model)
    with pytest.raises((PatchError, ScheduleError), match=match):
        patch(model, schedule, **arguments)
    assert state(model) == before


def test_refuses_what_does_not_fit(model, qwen2):
    refused(
        model,
        Schedule.parse("vision-merge 6"),
        "half of the 7 tokens in layer 3, got 6.*at most 5 a layer",
    )
    refused(model, Schedule.parse("vision-merge 2 layers=1-4"), "layers below 4")
    refused(model, Schedule.parse("vision-merge 2"), "schedule.vision_merge", visual_mask=mask_of())
    refused(qwen2, Schedule.parse("vision-merge 2"), "schedule.vision_merge", visual_mask=mask_of())
    model.config.vision_feature_layer = -2
    refused(
        model,
        Schedule.parse("vision-merge 2"),
        "vision_feature_layer: expected -1, the last hidden state",
    )


def test_refuses_other_towers_and_attention_that_takes_no_sizes(model):
    tower = model.model.vision_tower
    tower.config._attn_implementation = "flash_attention_2"
    refused(model, Schedule.parse("vision-merge 2"), "expected one of sdpa, eager")
    with patched(model, Schedule.parse("vision-merge 2 attention=plain")):
        pass
    config = CLIPVisionConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    model.model.vision_tower = CLIPVisionModel(config)
    refused(model, Schedule.parse("vision-merge 2"), "a SigLIP vision tower, got CLIPVisionModel")


def test_validate_on_the_command_line(tmp_path, monkeypatch, capfd):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_config()))
    arguments = (
        *("validate", "--model", path, "--frames", 2, "--repeats", 1, "--hardware", "cpu-generic"),
        *("--device", "cpu", "--dtype", "float32", "--vision-merge", "2:0-0", "--format", "json"),
    )
    monkeypatch.setattr(sys, "argv", ["aim-runtime", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    answer = json.loads(capfd.readouterr().out)
    assert [row["schedule"] for row in answer["rows"]] == ["none", "vision-merge 2 layers=0-0"]
    assert answer["flops_equal"]
