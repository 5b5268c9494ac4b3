"""Models whose configs differ from the usual ones: they run, or ``patch`` refuses them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    SiglipVisionConfig,
)

from aim_cost import Schedule
from aim_cost.errors import AimError
from aim_runtime import PatchError, patched
from aim_runtime.patching.patch import require_one_device
from tests.runtime.agree import check
from tests.runtime.models import CROP, PINPOINTS, llama_config, prompt_of
from tests.runtime.support import (
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    text_config,
    tiny_llava,
    tiny_qwen2,
    video_inputs,
)

TOWERS = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}
UNKNOWN = {"dinov2": Dinov2Config}
DECODERS = {"llama": llama_config, "qwen2": text_config}
BOTH = Schedule.parse("merge 0.6, prune linear:1:4")
KEPT = Schedule.parse("merge 0.5 positions=kept, prune ratios:1,0.5,0.25 drop=after-attention")
SCHEDULES = [BOTH, KEPT, Schedule.parse("prune linear:1:4")]
GREEDY = {"max_new_tokens": 3, "do_sample": False}


def tower_config(tower, size):
    return (TOWERS | UNKNOWN)[tower](
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=size,
        patch_size=5,
    )


def llava(tower, decoder, select, layer=-2):
    """A LLaVA with images of 15 x 15 pixels, 3 x 3 patches."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=tower_config(tower, 15),
        text_config=DECODERS[decoder](5),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=layer,
        vision_feature_select_strategy=select,
    )
    return LlavaForConditionalGeneration(config).eval()


def next_video(tower, decoder, layer=-2, pool="average"):
    torch.manual_seed(0)
    config = LlavaNextVideoConfig(
        vision_config=tower_config(tower, CROP),
        text_config=DECODERS[decoder](5),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        vision_feature_layer=layer,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        spatial_pool_mode=pool,
        spatial_pool_stride=2,
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextVideoForConditionalGeneration(config).eval()


def next_images(tower, decoder):
    torch.manual_seed(0)
    config = LlavaNextConfig(
        vision_config=tower_config(tower, CROP),
        text_config=DECODERS[decoder](5),
        image_token_index=IMAGE_TOKEN,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextForConditionalGeneration(config).eval()


def two_images(tower, select, size=15):
    """Text, an image, text, an image, text."""
    generator = torch.Generator().manual_seed(1)
    tokens = (size // 5) ** 2 + (tower == "clip") - (select == "default")
    text = [torch.randint(0, 200, (n,), generator=generator) for n in (4, 2, 5)]
    image = torch.full((tokens,), IMAGE_TOKEN)
    ids = torch.cat([text[0], image, text[1], image, text[2]])[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(2, 3, size, size, generator=generator),
    }


def assert_same_under_no_schedule(model, inputs):
    expected, words = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    with patched(model, Schedule()):
        assert torch.equal(model(**inputs).logits, expected)
        assert torch.equal(model.generate(**inputs, **GREEDY), words)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
@pytest.mark.parametrize("select", ["default", "full"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("tower", TOWERS)
def test_a_llava_of_any_tower_and_decoder(tower, decoder, select, schedule):
    model, inputs = llava(tower, decoder, select), two_images(tower, select)
    assert_same_under_no_schedule(model, inputs)
    check(model, inputs, schedule)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
@pytest.mark.parametrize("tower", TOWERS)
def test_a_next_video_of_any_tower_with_another_decoder(tower, schedule):
    model = next_video(tower, "qwen2")
    inputs = prompt_of(model, [4, (50, 100), 3, "video 3", (100, 40), 5])
    assert_same_under_no_schedule(model, inputs)
    check(model, inputs, schedule)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_next_of_any_tower_with_another_decoder(tower):
    model = next_images(tower, "qwen2")
    inputs = prompt_of(model, [4, (50, 100), 3, (100, 40), 5])
    assert_same_under_no_schedule(model, inputs)
    check(model, inputs, KEPT)


@pytest.mark.parametrize(("layer", "pool"), [([-2, -1], "average"), (-2, "max"), (-2, "conv")])
def test_what_changes_no_number_of_tokens(layer, pool):
    model = next_video("clip", "llama", layer, pool)
    plain = next_video("clip", "llama")
    inputs = prompt_of(plain, [4, (50, 100), 3, "video 3", 5])
    assert_same_under_no_schedule(model, inputs)
    with patched(plain, BOTH) as trace:
        plain(**inputs)
        tokens = trace.tokens
    with patched(model, BOTH) as trace:
        model(**inputs)
    assert trace.tokens == tokens


def test_images_of_another_size_than_the_config_names():
    model, inputs = llava("siglip", "llama", "full"), two_images("siglip", "full", size=25)
    inputs["interpolate_pos_encoding"] = True
    try:
        expected = model(**inputs).logits
    except RuntimeError:
        pytest.skip("this version of transformers does not hand the argument to the tower")
    with patched(model, Schedule()) as trace:
        assert torch.equal(model(**inputs).logits, expected)
    assert trace.tokens.visual_tokens == 50
    with patched(model, Schedule.parse("merge 0.6")) as trace:
        model(**inputs)
    assert trace.tokens.merge_tokens == (25, 15)


def refused(model, says):
    with pytest.raises(AimError, match=says), patched(model, Schedule()):
        pytest.fail("patched all the same")


def test_a_tower_whose_tokens_nobody_counts():
    for model in (llava("dinov2", "llama", "default"), next_video("dinov2", "llama")):
        refused(model, r"vision_config\.model_type: .*got '?dinov2.*")


@pytest.mark.parametrize(
    "make",
    [
        tiny_llava,
        lambda: next_video("siglip", "llama"),
        lambda: next_images("siglip", "llama"),
    ],
)
def test_features_that_fill_no_grid(make):
    model = make()
    model.config.vision_feature_select_strategy = "default"
    refused(model, "vision_feature_select_strategy: .*fill a grid")


def test_no_placeholder():
    model = tiny_llava(layers=2)
    model.config.video_token_id = None
    refused(model, "video_token_id: .*the id of the placeholders of videos")


def test_a_config_that_names_fewer_layers_than_there_are():
    model = tiny_llava(layers=3)
    model.config.text_config.num_hidden_layers = 2
    model(**video_inputs())
    refused(model, "num_hidden_layers: expected 3, the layers that the decoder has, got 2")


def test_layers_on_several_devices():
    layers = tiny_qwen2(layers=2).model.layers
    require_one_device(layers)
    elsewhere = SimpleNamespace(device=torch.device("cuda:1"), is_meta=False)
    fetched = SimpleNamespace(device=torch.device("meta"), is_meta=True)
    require_one_device([*layers, SimpleNamespace(parameters=lambda: [fetched])])
    with pytest.raises(PatchError, match=r"layers on one device.*cpu, cuda:1"):
        require_one_device([*layers, SimpleNamespace(parameters=lambda: [elsewhere])])
    assert isinstance(layers, nn.ModuleList)
