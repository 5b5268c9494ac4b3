"""smallest_model(): a tiny random model of a supported class, for quick checks."""

from typing import Any

import torch
from transformers import PreTrainedModel

from aim_runtime.models.adapter import config_class
from aim_runtime.models.adapters import ADAPTERS
from aim_runtime.models.small_parts import TEXT


def smallest_model(kind: type[PreTrainedModel]) -> PreTrainedModel:
    """A model of the class ``kind``: 4 decoder layers of 64, fp32, on the CPU, the same each time.

    Raises: KeyError for a class whose model_type no adapter knows, and that is no bare LLM.
    """
    config = config_class(kind)
    fields: dict[str, dict[str, Any]] = {"qwen2": TEXT, "llama": TEXT}
    for adapter in ADAPTERS:
        fields |= adapter.smallest
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        model = kind(config(**fields[config.model_type]))
    model.eval()
    return model
