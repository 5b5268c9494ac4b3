"""docs/adapters.md: the adapter that it shows is all that another model needs."""

import re
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

from aim_cost import Schedule
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import PatchError, models, patched
from aim_runtime.models import smallest
from aim_runtime.models.adapters import ADAPTERS
from tests.runtime.agree import GREEDY, check
from tests.runtime.models import batch_of, llama_config, prompt_of
from tests.runtime.support import IMAGE_TOKEN

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"


@pytest.fixture
def model() -> VipLlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=15,
        patch_size=5,
    )
    config = VipLlavaConfig(
        vision_config=vision, text_config=llama_config(6), image_token_index=IMAGE_TOKEN
    )
    # called so in 5.23 and in 5.17
    config.vision_feature_layer = config.vision_feature_layers = [-2, -3, 1]
    return VipLlavaForConditionalGeneration(config).eval()


@pytest.fixture
def shown(monkeypatch) -> None:
    """The page's code, run, and its adapter among ours."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    for module in (models, smallest):
        monkeypatch.setattr(module, "ADAPTERS", (*ADAPTERS, names["VipLlavaAdapter"]))


def test_without_an_adapter_a_model_is_refused(model):
    with (
        pytest.raises(PatchError, match="VipLlavaForConditionalGeneration"),
        patched(model, Schedule()),
    ):
        pass


def test_the_smallest_model_of_the_adapter_shown_runs(shown):
    model = smallest.smallest_model(VipLlavaForConditionalGeneration)
    ids = torch.tensor([[1, 2, *[model.config.image_token_id] * 16, 3]])
    with patched(model, Schedule(Merge(retention=0.5))) as trace:
        model(input_ids=ids, pixel_values=torch.ones(1, 3, 16, 16))
    assert trace.tokens.attention_tokens == (3 + 8,) * 4


@pytest.mark.parametrize("positions", ["recounted", "kept"])
@pytest.mark.parametrize("drop_point", ["layer", "after_attention"])
def test_the_adapter_shown_runs(model, shown, positions, drop_point):
    prompts = [(4, "image", 5), (2, "image", 3, "image", 4), (9,)]
    inputs = batch_of([prompt_of(model, parts, seed=i) for i, parts in enumerate(prompts)])
    logits, new = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    with patched(model, Schedule()):
        assert torch.equal(model(**inputs).logits, logits)
        assert torch.equal(model.generate(**inputs, **GREEDY), new)
    merge = Merge(retention=0.4, positions=positions)
    check(model, inputs, Schedule(merge, Prune(linear=(1, 4), drop_point=drop_point)))
