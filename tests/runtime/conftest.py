import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2ForCausalLM

from aim_runtime.campaigns.file import CAMPAIGN
from aim_runtime.measurement import measure
from aim_runtime.models.load import Loaded, load
from tests.runtime import rehearsed
from tests.runtime.support import tiny_llava, tiny_qwen2


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def qwen2() -> Qwen2ForCausalLM:
    return tiny_qwen2()


@pytest.fixture
def llava() -> LlavaOnevisionForConditionalGeneration:
    return tiny_llava()


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    """A LLaVA-OneVision of the real class, tiny and random; nobody changes it."""
    return load(tiny_llava().config.to_dict(), "cpu", "float32", random_weights=True)


@pytest.fixture
def order(monkeypatch):
    """The labels of the schedules as they are run; ``order.fail[label]`` is raised instead."""

    class Order(list):
        fail: dict[str, BaseException] = {}  # noqa: RUF012

    order, patched = Order(), measure.patched
    order.fail = {}

    @contextmanager
    def observed(model, schedule, **options):
        order.append(schedule.label())
        if schedule.label() in order.fail:
            raise order.fail[schedule.label()]
        with patched(model, schedule, **options) as trace:
            yield trace

    monkeypatch.setattr(measure, "patched", observed)
    return order


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A campaign of ``rehearsed``; nobody changes it."""
    return rehearsed.campaign(tmp_path_factory.mktemp("campaign"))


@pytest.fixture
def changed(folder, tmp_path):
    """A copy of the campaign, and a function that changes its tree."""
    shutil.copytree(folder, tmp_path / "copy")

    def change(edit):
        path = tmp_path / "copy" / CAMPAIGN
        tree = json.loads(path.read_text())
        edit(tree)
        path.write_text(json.dumps(tree))
        return tmp_path / "copy"

    return change
