"""A model named as on the hub: read from the cache, asked of the network, or refused."""

import json

import pytest

from aim_cost import ModelSpec, load_model_spec, preset_config
from aim_cost.errors import SpecError
from aim_cost.models.hub import is_hub_name

hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
NAME = "somebody/some-model"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub; nobody is online."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def put(cache, config):
    """Lay ``config`` into the cache as a download leaves it."""
    folder, commit = cache / f"models--{NAME.replace('/', '--')}", 40 * "a"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text(json.dumps(config))


def test_what_is_in_the_cache_is_read(cache):
    config = preset_config("llava-v1.6-mistral-7b") | {"_name_or_path": "/home/somebody/run-3"}
    put(cache, config)
    spec = load_model_spec(NAME)
    assert (spec.name, spec.checkpoint) == (NAME, NAME)
    assert spec.text == ModelSpec.from_hf_config(config).text


def test_what_is_neither_cached_nor_reachable_is_refused(cache):
    with pytest.raises(SpecError, match=rf"model {NAME}: .* in the cache.*preset \(aim-cost"):
        load_model_spec(NAME)


def test_a_cached_config_of_another_kind_is_refused(cache):
    put(cache, {"model_type": "bert"})
    with pytest.raises(SpecError, match="model_type"):
        load_model_spec(NAME)


def test_what_is_not_cached_is_fetched(cache, monkeypatch, tmp_path):
    path = tmp_path / "fetched.json"
    path.write_text(json.dumps(preset_config("llava-1.5-7b")))
    asked = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *of: asked.append(of) or str(path))
    assert load_model_spec(NAME).image_tokens == 576
    assert asked == [(NAME, "config.json")]


@pytest.mark.parametrize("text", ["llava", "../model", "a/b/c", "./x", "a/b.json", "a/", ""])
def test_what_is_no_name_of_the_hub_is_none_of_a_preset_either(text):
    assert not is_hub_name(text)
    with pytest.raises(SpecError, match="model: expected one of the known names"):
        load_model_spec(text)
