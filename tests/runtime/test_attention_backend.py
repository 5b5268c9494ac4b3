"""The attention backend: named as torch chooses it, and the only one that runs when asked for."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from aim_cost.models.model import load_model_spec
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement import attention_backend as module
from aim_runtime.measurement.attention_backend import (
    AttentionBackend,
    attention_backend,
    chosen_backend,
)

TEXT = load_model_spec("llava-onevision-qwen2-0.5b").text


def operations(backend):
    """The names of the operations that a causal attention with grouped heads runs."""
    query, key = torch.randn(1, 14, 64, 64), torch.randn(1, 2, 64, 64)
    with torch.profiler.profile() as profile, attention_backend(backend):
        scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    return {event.key for event in profile.key_averages()}


def test_the_backend_that_torch_chooses_is_the_one_that_runs():
    chosen = chosen_backend(TEXT, torch.device("cpu"), "float32")
    assert operations(None) == operations(chosen)


def test_what_is_asked_for_runs_and_nothing_else():
    math, flash = (
        operations(backend) for backend in (AttentionBackend.math, AttentionBackend.flash)
    )
    assert "aten::_scaled_dot_product_attention_math" in math
    assert not any("flash" in name for name in math)
    assert any("flash" in name for name in flash)


def test_a_backend_that_cannot_is_an_error_rather_than_another_one():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(RuntimeError):
        operations(AttentionBackend.efficient)


def test_a_choice_without_a_name_is_refused(monkeypatch):
    monkeypatch.setattr(module.torch, "_fused_sdp_choice", lambda *_, **__: -1)
    with pytest.raises(MeasurementError, match="cudnn, flash, efficient, math"):
        chosen_backend(TEXT, torch.device("cpu"), "bfloat16")
