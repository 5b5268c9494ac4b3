"""What a patch relies on in transformers is listed, checked first, and tried where untested."""

import copy
import functools
import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from packaging.specifiers import SpecifierSet
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from aim_cost.schedules.schedule import Schedule
from aim_runtime import PatchError, patched, seams
from aim_runtime.models import find_adapter
from aim_runtime.models.smallest import smallest_model
from aim_runtime.patching import trial
from aim_runtime.patching.patch import LANGUAGE_MODELS, SUPPORTED_MODELS
from tests.runtime.support import video_inputs

ROOT = Path(__file__).parents[2]
PRUNE = Schedule.parse("prune linear:1:3")


@pytest.fixture(params=SUPPORTED_MODELS, ids=lambda kind: kind.__name__)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return smallest_model(request.param)


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A release after the newest that was tested."""
    major, minor = seams.NEWEST_TESTED
    monkeypatch.setattr(transformers, "__version__", f"{major}.{minor + 1}.0")
    monkeypatch.setattr(trial, "_differences", {})


def all_seams(model: PreTrainedModel) -> list[seams.Seam]:
    adapter = find_adapter(model)
    if adapter is None:
        return seams.decoder_seams(model.model)
    return [
        *seams.decoder_seams(adapter.decoder),
        *seams.model_seams(model, adapter.inner, adapter.pixel_inputs),
        *(
            s
            for part in model.modules()
            if isinstance(part, SiglipEncoderLayer)
            for s in seams.siglip_seams(part)
        ),
    ]


def run(model: PreTrainedModel, schedule: Schedule = PRUNE) -> None:
    """Enter a patch, with a mask where the model needs one."""
    mask = None
    if isinstance(model, LANGUAGE_MODELS):
        mask = torch.zeros(1, 8, dtype=torch.bool)
        mask[:, 2:6] = True
    with patched(model, schedule, visual_mask=mask):
        pass


def test_every_seam_holds_here(model):
    found = all_seams(model)
    assert len(found) >= 9
    assert [(seam.where, seam.missing()) for seam in found if seam.missing()] == []
    assert all(seam.arguments or seam.attributes for seam in found)


def test_every_name_of_every_seam_is_checked(model):
    # break each in turn: an owner that accepts and has nothing
    for seam in all_seams(model):
        bare = seams.Seam(seam.where, lambda: None, seam.arguments, seam.attributes)
        assert set(bare.missing()) == {*seam.arguments, *seam.attributes}


def test_the_range_that_was_tested_is_the_range_that_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["optional-dependencies"]["runtime"]
    (text,) = [line for line in wanted if re.match(r"transformers\b", line)]
    allowed = SpecifierSet(text.removeprefix("transformers"))
    (major, oldest), (_, newest) = seams.OLDEST_TESTED, seams.NEWEST_TESTED
    assert f"{major}.{oldest}.0" in allowed
    assert f"{major}.{oldest - 1}.9" not in allowed
    assert f"{major}.{newest}.9" in allowed
    assert f"{major}.{newest + 1}.0" not in allowed
    assert text.removeprefix("transformers") in seams.WAY_OUT


def test_no_other_module_spells_what_changed():
    own = {"seams.py"}
    for path in (ROOT / "aim_runtime").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name not in own:
            assert "past_key_values" not in text, path
            assert not re.search(r"transformers\.__version__\s*[<>=]|\b5\.(1[5-9]|2\d)\b", text), (
                path
            )


def rename(module: nn.Module, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the class of ``module`` a forward whose argument ``old`` is called ``new``."""
    forward = type(module).forward

    @functools.wraps(forward)
    def renamed(self, *args, **kwargs):
        if new in kwargs:
            kwargs[old] = kwargs.pop(new)
        return forward(self, *args, **kwargs)

    found = seams.inspect.signature(forward)
    parts = [
        part.replace(name=new) if name == old else part for name, part in found.parameters.items()
    ]
    renamed.__signature__ = found.replace(parameters=parts)
    monkeypatch.setattr(type(module), "forward", renamed)


@pytest.mark.parametrize("argument", ["position_embeddings", seams.CACHE])
def test_a_renamed_argument_is_refused_before_anything_changes(
    model, argument, untested, monkeypatch
):
    adapter = find_adapter(model)
    decoder = model.model if adapter is None else adapter.decoder
    rename(decoder.layers[0], argument, "something_new", monkeypatch)
    before = copy.copy(vars(decoder))
    with pytest.raises(PatchError) as caught:
        run(model)
    text = str(caught.value)
    assert argument in text
    assert transformers.__version__ in text
    assert "5.17 to 5.24" in text
    assert "pip install" in text
    assert vars(decoder) == before


def test_an_untested_release_that_runs_alike_is_told_once(model, untested):
    with pytest.warns(UserWarning, match=f"{transformers.__version__} was not tested") as seen:
        run(model)
    assert len([w for w in seen if "was not tested" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model)  # once a process


def test_an_untested_release_that_runs_otherwise_is_refused(model, untested, monkeypatch):
    norm = type(find_adapter(model).decoder.norm if find_adapter(model) else model.model.norm)
    forward = norm.forward
    # a change that no signature shows
    monkeypatch.setattr(norm, "forward", lambda self, x: forward(self, x) * 1.01)
    for _ in range(2):  # and again: the verdict stays
        with pytest.raises(PatchError, match=r"differ|other tokens") as caught:
            run(model)
    assert "5.17 to 5.24" in str(caught.value)


def test_an_untested_release_that_fails_is_refused(model, untested, monkeypatch):
    def fail(*args, **kwargs):
        raise TypeError("no such thing any more")

    monkeypatch.setattr(DynamicCache, "get_seq_length", fail)
    with pytest.raises(PatchError, match="no such thing any more"):
        run(model)


def test_a_tested_release_is_not_tried(model, monkeypatch):
    monkeypatch.setattr(trial, "_difference", lambda *args: pytest.fail("tried"))
    run(model)


@pytest.mark.parametrize("version", ["5.16.0", "5.25.0", "5.25.0.dev0", "6.0.0", "4.57.1"])
def test_versions_outside_the_range_are_untested(version, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", version)
    assert not seams.is_tested()


@pytest.mark.parametrize("version", ["5.17.0", "5.20.1", "5.24.3", "5.24.0rc1"])
def test_versions_inside_the_range_are_tested(version, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", version)
    assert seams.is_tested()


def test_both_names_of_a_cache_are_read():
    cache = DynamicCache()
    for name in ("cache", "past_key_values"):
        assert seams.cache_in({name: cache}) is cache
        assert seams.with_new_names({name: cache, "x": 1}) == {seams.CACHE: cache, "x": 1}
    assert seams.cache_in({"cache": None}) is None
    assert seams.cache_of(object()) is None


KNOWN = ("cache", "past_key_values")  # newest first
ACCEPTED = KNOWN[KNOWN.index(seams.CACHE) :]


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("schedule", [Schedule(), Schedule.parse("merge 0.5, prune linear:1:3")])
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_caller_may_use_every_name_that_transformers_takes(llava, name, schedule):
    inputs = video_inputs()
    word = torch.tensor([[7]])
    with patched(llava, schedule):
        expected = llava(
            input_ids=word, **seams.with_cache(seams.cache_of(llava(**inputs, use_cache=True)))
        ).logits
        first = llava(**inputs, use_cache=True)
        cache = getattr(first, name)
        lengths = [cache.get_seq_length(layer) for layer in range(6)]
        step = llava(input_ids=word, **{name: cache})
    assert torch.equal(step.logits, expected)
    assert [cache.get_seq_length(layer) for layer in range(6)] == [n + 1 for n in lengths]


def test_our_own_calls_use_no_deprecated_name(llava, caplog):
    with (
        warnings.catch_warnings(),
        caplog.at_level("WARNING"),
        patched(llava, Schedule.parse("merge 0.5, prune linear:1:3")),
    ):
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        llava.generate(**video_inputs(), max_new_tokens=3, do_sample=False)
    assert "deprecated" not in caplog.text
