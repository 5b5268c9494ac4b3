"""From a name, a folder or a config to a model: weights, layers, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from aim_cost import model_parameters, preset_config
from aim_cost.errors import SpecError
from aim_runtime import load
from aim_runtime.errors import LoadError
from aim_runtime.models.load import WEIGHT_STD, default_device, place_of, spec_of
from tests.cost.test_hub_names import NAME, cache, put  # noqa: F401  # a fixture
from tests.runtime.models import tiny_llava_15, tiny_next, tiny_next_video
from tests.runtime.support import tiny_llava, video_inputs

PRESET = "llava-onevision-qwen2-0.5b"
HUB = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def config() -> dict:
    return tiny_llava().config.to_dict()


def random_tiny(config, **options):
    return load(config, **{"device": "cpu", "dtype": "float32", "random_weights": True} | options)


def test_random_weights_have_the_stated_distribution(config):
    parameters = dict(random_tiny(config).model.named_parameters())
    for name, parameter in parameters.items():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1 and name.endswith("weight"):
            assert (parameter == 1).all(), name
    matrices = torch.cat([p.flatten() for p in parameters.values() if p.ndim > 1])
    assert matrices.std().item() == pytest.approx(WEIGHT_STD, rel=0.02)
    assert abs(matrices.mean().item()) < 1e-3
    assert parameters["model.image_newline"].std() > 0


def test_the_seed_decides_the_weights(config):
    def weights(seed):
        return random_tiny(config, seed=seed).model.state_dict()

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_skipping_the_initialisation_leaves_no_buffer_unset(config):
    ours = dict(random_tiny(config).model.named_buffers())
    theirs = dict(tiny_llava().named_buffers())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("tiny", [tiny_llava_15, tiny_next, tiny_next_video])
def test_skipping_the_initialisation_is_right_for_other_towers(tiny):
    config = tiny().config.to_dict()
    told = json.dumps(config, default=str)
    loaded, made = random_tiny(config), tiny()
    assert type(loaded.model) is type(made)
    ours, theirs = dict(loaded.model.named_buffers()), dict(made.named_buffers())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(p.isfinite().all() for p in loaded.model.parameters())
    assert json.dumps(config, default=str) == told


@pytest.mark.parametrize(
    ("name", "kind", "blocks"),
    [
        ("llava-1.5-7b", "LlavaForConditionalGeneration", "vision_tower.encoder.layers"),
        (
            "llava-v1.6-mistral-7b",
            "LlavaNextForConditionalGeneration",
            "vision_tower.encoder.layers",
        ),
        (
            "llava-next-video-7b",
            "LlavaNextVideoForConditionalGeneration",
            "vision_tower.encoder.layers",
        ),
        ("qwen2-vl-7b", "Qwen2VLForConditionalGeneration", "visual.blocks"),
        ("qwen2.5-vl-7b", "Qwen2_5_VLForConditionalGeneration", "visual.blocks"),
    ],
)
def test_the_model_type_chooses_the_class(name, kind, blocks):
    loaded = load(name, device="meta", random_weights=True, layers=3, vision_layers=2)
    core = loaded.model.model
    assert type(loaded.model).__name__ == kind
    assert len(core.language_model.layers) == loaded.spec.text.num_hidden_layers == 3
    assert len(core.get_submodule(blocks)) == loaded.spec.vision.num_hidden_layers == 2
    assert loaded.spec == replace(spec_of(name), text=loaded.spec.text, vision=loaded.spec.vision)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_random_model_runs_and_says_what_it_is(config, dtype):
    loaded = random_tiny(config, dtype=dtype)
    inputs = video_inputs(frames=2)
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(getattr(torch, dtype))
    logits = loaded.model(**inputs).logits
    assert logits.dtype == getattr(torch, dtype)
    assert logits.isfinite().all()
    assert logits.std() > 0
    assert not loaded.model.training
    assert (loaded.dtype, loaded.device.type, loaded.source) == (dtype, "cpu", None)


@pytest.mark.parametrize("given", ["", "x", "cuda:99", "mps"])
def test_devices_that_are_not_here_are_refused(given):
    """An empty name is no device; none at all is the default one."""
    with pytest.raises(LoadError, match=r"^device: expected cpu, meta, or one of"):
        place_of(given)
    assert str(place_of(None)) == default_device()


def test_a_preset_on_the_meta_device_has_the_real_dims_and_no_data():
    loaded = load(PRESET, device="meta", random_weights=True)
    model, text = loaded.model, preset_config(PRESET)["text_config"]
    assert all(parameter.is_meta for parameter in model.parameters())
    assert len(model.model.language_model.layers) == text["num_hidden_layers"]
    assert model.lm_head.weight.shape == (text["vocab_size"], text["hidden_size"])
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight  # tied
    assert model.dtype == torch.bfloat16
    assert loaded.source == preset_config(PRESET)["_name_or_path"]


def test_layers_are_cut_in_model_and_spec_alike():
    loaded = load(PRESET, device="meta", random_weights=True, layers=3)
    core = loaded.model.model
    assert loaded.spec.text.num_hidden_layers == len(core.language_model.layers) == 3
    assert loaded.spec.vision.num_hidden_layers == len(core.vision_tower.encoder.layers)
    assert len(loaded.config.text_config.layer_types) == 3
    assert loaded.spec.text.hidden_size == 896


def test_a_config_that_lists_its_layers_is_cut_too(config):
    assert len(config["text_config"]["layer_types"]) == 6
    loaded = random_tiny(config, layers=2)
    assert len(loaded.config.text_config.layer_types) == 2
    assert loaded.model(**video_inputs(frames=2)).logits.isfinite().all()


def test_the_vision_tower_is_cut_on_its_own():
    loaded = load(PRESET, device="meta", random_weights=True, layers=3, vision_layers=1)
    core = loaded.model.model
    assert loaded.spec.text.num_hidden_layers == len(core.language_model.layers) == 3
    assert loaded.spec.vision.num_hidden_layers == len(core.vision_tower.encoder.layers) == 1
    with pytest.raises(LoadError, match="at most 26, the vision layers"):
        load(PRESET, device="meta", random_weights=True, vision_layers=27)
    with pytest.raises(LoadError, match="random_weights"):
        load(PRESET, device="meta", vision_layers=1)


@pytest.mark.parametrize(("layers", "expected"), [(25, "at most 24"), (0, "at least 1")])
def test_layers_that_do_not_exist(layers, expected):
    with pytest.raises(LoadError, match=expected):
        load(PRESET, device="meta", random_weights=True, layers=layers)


def test_layers_of_a_checkpoint_are_not_cut():
    with pytest.raises(LoadError, match="random_weights"):
        load(PRESET, device="meta", layers=3)


def test_a_local_checkpoint_keeps_its_weights(tmp_path):
    original = tiny_llava(seed=5)
    original.save_pretrained(tmp_path / "mine")
    loaded = load(tmp_path / "mine", device="cpu", dtype="float32")
    ours, theirs = loaded.model.state_dict(), original.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (loaded.spec.name, loaded.source) == ("mine", str(tmp_path / "mine"))
    assert loaded.spec.text.num_hidden_layers == 6


def test_weights_that_are_not_safetensors_are_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(tiny_llava().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match="safetensors"):
        load(tmp_path, device="cpu", dtype="float32")


def test_a_config_file_is_enough_for_random_weights_but_not_without(tmp_path, config):
    path = tmp_path / "some-model.json"
    path.write_text(json.dumps(config))
    assert load(path, device="meta", random_weights=True).spec.name == "some-model"
    with pytest.raises(LoadError, match="--random-weights"):
        load(path, device="cpu")


def test_a_preset_without_random_weights_is_its_hub_checkpoint(monkeypatch):
    asked = {}

    def offline(source, **options):
        asked.update(source=source, **options)
        raise OSError("We couldn't connect to the hub.\nand much more")

    monkeypatch.setattr(LlavaOnevisionForConditionalGeneration, "from_pretrained", offline)
    with pytest.raises(LoadError, match=r"local copy.*--random-weights") as caught:
        load(PRESET, device="cpu")
    assert "couldn't connect" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert asked["source"] == "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        ({"name_or_path_or_config": "llava-twovision"}, SpecError, PRESET),
        ({"dtype": "int4"}, SpecError, "bfloat16"),
        ({"device": "warp"}, LoadError, "cpu, meta"),
        ({"device": "cuda:99"}, LoadError, "CUDA devices here"),
    ],
)
def test_what_cannot_be_loaded(arguments, error, expected):
    with pytest.raises(error, match=expected):
        load(
            **{"name_or_path_or_config": PRESET, "device": "meta", "random_weights": True}
            | arguments
        )


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("image_token_index", "5", LoadError),  # the class's own check: no size depends on it
        ("projector_hidden_act", 5, SpecError),
        ("vision_config", 7, SpecError),
        ("vision_feature_select_strategy", "some", SpecError),
    ],
)
def test_a_wrong_field_is_named(config, field, value, error):
    with pytest.raises(error, match=field):
        random_tiny({**config, field: value})


HUB_FORMS = ("llava-1.5-7b-hf", "qwen2.5-vl-3b-instruct", "nexus-gen-v2", "qwen2.5-vl-3b-by-5")


def hub_form(name):
    """The fields of a config as the hub has it."""
    return json.loads((HUB / f"{name}.json").read_text())["config"]


@pytest.mark.parametrize("name", HUB_FORMS)
@pytest.mark.parametrize("cut", [{}, {"layers": 2}, {"layers": 3, "vision_layers": 1}])
def test_a_config_of_the_hub_is_loaded_as_it_is(tmp_path, name, cut):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(hub_form(name)))
    loaded, whole = load(path, "meta", random_weights=True, **cut), spec_of(path)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    assert parameters == model_parameters(loaded.spec)
    assert loaded.spec == spec_of(path, **cut)
    assert loaded.spec.text.num_hidden_layers == cut.get("layers", whole.text.num_hidden_layers)
    assert replace(loaded.spec, text=whole.text, vision=whole.vision) == whole


def test_a_name_of_the_hub_is_its_config_in_the_cache(cache):  # noqa: F811
    put(cache, hub_form("qwen2.5-vl-3b-instruct"))
    loaded = load(NAME, "meta", random_weights=True, layers=2)
    assert (loaded.source, loaded.spec.name) == (NAME, NAME)
    assert loaded.spec == spec_of(NAME, layers=2)
    with pytest.raises(SpecError, match=r"model nobody/at-all: .* in the cache"):
        load("nobody/at-all", "meta", random_weights=True)


@pytest.mark.parametrize("name", ["qwen2-vl-7b-instruct-awq", "llava-1.5-7b-bnb-8bit"])
def test_quantised_weights_are_not_loaded(name):
    config = hub_form(name)
    with pytest.raises(LoadError, match="quantization_config: expected weights that are not"):
        load(config, "meta", random_weights=True)
    del config["quantization_config"]
    load(config, "meta", random_weights=True, layers=1)


def test_a_folder_or_file_that_is_no_model(tmp_path):
    with pytest.raises(LoadError, match="checkpoint"):
        load(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(LoadError, match=r"config\.json"):
        load(tmp_path / "config.json", device="cpu", random_weights=True)
