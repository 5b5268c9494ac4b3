"""A model inside PEFT, accelerate, data parallelism: patched where it runs, or told how."""

import copy

import pytest
import torch
from torch import Tensor, nn

from aim_cost import Schedule
from aim_runtime import PatchError, patched, unpatch
from tests.runtime.support import tiny_llava, tiny_qwen2, video_inputs

REDUCED = Schedule.parse("merge 0.5, prune linear:1:4")
INSIDE = Schedule.parse("merge 0.5, prune linear:1:4 drop=after-attention")
GREEDY = {"max_new_tokens": 4, "do_sample": False}


class Lora(nn.Module):
    """A linear layer and a low-rank addition, as PEFT puts it in place of the layer."""

    def __init__(self, base: nn.Linear, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.base_layer = base
        self.a = nn.Parameter(torch.randn(2, base.in_features, generator=generator) / 8)
        self.b = nn.Parameter(torch.randn(base.out_features, 2, generator=generator) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + x @ self.a.T @ self.b.T


class Tuner(nn.Module):
    """What PEFT calls ``base_model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.model(*args, **kwargs)


class Tuned(nn.Module):
    """The outer shape of a PeftModel."""

    def __init__(self, model: nn.Module, *, virtual_tokens: bool = False) -> None:
        super().__init__()
        self.base_model = Tuner(model)
        self.active_peft_config = type("Config", (), {"is_prompt_learning": virtual_tokens})()
        self.peft_config = {"default": self.active_peft_config}

    def get_base_model(self) -> nn.Module:
        return self.base_model.model

    def generate(self, *args: object, **kwargs: object) -> object:
        return self.get_base_model().generate(*args, **kwargs)

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.base_model(*args, **kwargs)


def adapted(model: nn.Module) -> nn.Module:
    """``model`` with additions to every query and output projection."""
    for number, layer in enumerate(model.model.language_model.layers):
        attention = layer.self_attn
        attention.q_proj = Lora(attention.q_proj, 2 * number)
        attention.o_proj = Lora(attention.o_proj, 2 * number + 1)
    return model


def added_up(model: nn.Module) -> nn.Module:
    """An adapted model with the additions inside plain weights."""
    model = copy.deepcopy(model)
    for layer in model.model.language_model.layers:
        for name in ("q_proj", "o_proj"):
            lora = getattr(layer.self_attn, name)
            lora.base_layer.weight.data += lora.b @ lora.a
            setattr(layer.self_attn, name, lora.base_layer)
    return model


@pytest.mark.parametrize("schedule", [REDUCED, INSIDE], ids=Schedule.label)
@pytest.mark.parametrize("last_layer", ["all", "needed"])
@torch.no_grad()
def test_adapters_in_the_layers(schedule, last_layer):
    model, inputs = adapted(tiny_llava()), video_inputs()
    plain = added_up(model)
    tuned = Tuned(model)
    with patched(plain, schedule, last_layer=last_layer) as trace:
        expected = plain(**inputs, logits_to_keep=1).logits
        tokens, words = trace.tokens, plain.generate(**inputs, **GREEDY)
    with patched(tuned, schedule, last_layer=last_layer) as trace:
        found = tuned(**inputs, logits_to_keep=1).logits
        assert trace.tokens == tokens
        assert torch.equal(tuned.generate(**inputs, **GREEDY), words)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    with pytest.raises(PatchError, match="a patched model"):
        unpatch(tuned)


def test_virtual_tokens_are_refused():
    with (
        pytest.raises(PatchError, match=r"virtual tokens stand before the prompt"),
        patched(Tuned(tiny_llava(layers=2), virtual_tokens=True), REDUCED),
    ):
        pytest.fail("patched all the same")


@pytest.mark.parametrize("wrap", [nn.DataParallel, Tuner])
@pytest.mark.parametrize("make", [tiny_llava, tiny_qwen2])
def test_other_wrappers_name_the_model_inside(wrap, make):
    wrapper = wrap(make(layers=2))
    name = "module" if wrap is nn.DataParallel else "model"
    says = rf"{wrap.__name__}, which wraps one.*model\.{name}\."
    with pytest.raises(PatchError, match=says), patched(wrapper, REDUCED):
        pytest.fail("patched all the same")
    if make is tiny_llava:
        with patched(getattr(wrapper, name), REDUCED):
            pass


def test_a_real_peft_model():
    peft = pytest.importorskip("peft")
    inputs = video_inputs()
    where = r".*language_model.*(q_proj|o_proj)"
    lora = peft.LoraConfig(target_modules=where, r=4, init_lora_weights=False)
    tuned = peft.get_peft_model(tiny_llava(), lora)
    with patched(tuned, REDUCED) as trace:
        words = tuned.generate(**inputs, **GREEDY)
        tokens = trace.tokens
    merged = tuned.merge_and_unload()
    with patched(merged, REDUCED) as trace:
        assert torch.equal(merged.generate(**inputs, **GREEDY), words)
        assert trace.tokens == tokens
    learned = peft.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=3,
        num_layers=6,
        token_dim=64,
        num_attention_heads=4,
    )
    with (
        pytest.raises(PatchError, match="PromptTuningConfig"),
        patched(peft.get_peft_model(tiny_llava(), learned), REDUCED),
    ):
        pytest.fail("patched all the same")


@pytest.mark.parametrize("schedule", [REDUCED, INSIDE], ids=Schedule.label)
@pytest.mark.parametrize("last_layer", ["all", "needed"])
def test_weights_that_accelerate_keeps_elsewhere(schedule, last_layer):
    accelerate = pytest.importorskip("accelerate")
    model, inputs = tiny_llava(), video_inputs()
    plain = model.generate(**inputs, **GREEDY)
    with patched(model, schedule, last_layer=last_layer):
        expected = model.generate(**inputs, **GREEDY)
    # transformers reads a parameter of the outer model where accelerate does not fetch it
    accelerate.cpu_offload(model.model.language_model, execution_device="cpu")
    assert next(model.model.language_model.layers.parameters()).is_meta
    for _ in range(2):
        with patched(model, schedule, last_layer=last_layer):
            assert torch.equal(model.generate(**inputs, **GREEDY), expected)
        assert torch.equal(model.generate(**inputs, **GREEDY), plain)
