import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2ForCausalLM

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
