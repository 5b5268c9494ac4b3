"""The transformers model inside the wrappers of other libraries."""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from aim_runtime.errors import PatchError
from aim_runtime.models.compiled import unwrapped

_INNER = ("module", "model", "base_model")  # of DDP, FSDP and DeepSpeed; of PEFT's tuners


def model_inside(model: nn.Module) -> PreTrainedModel:
    """The model that runs when ``model`` is called: inside torch.compile, or inside PEFT.

    Adapters of PEFT that sit in the layers, as LoRA, are part of it.
    Raises: PatchError for PEFT's virtual tokens, and for other wrappers around a model.
    """
    model = unwrapped(model)
    if isinstance(model, PreTrainedModel):
        return model
    base = getattr(model, "get_base_model", None)
    if callable(base) and hasattr(model, "peft_config"):
        _require_no_virtual_tokens(model)
        return model_inside(base())
    for name in _INNER:
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and isinstance(unwrapped(inner), PreTrainedModel):
            raise PatchError(
                "model",
                expected="the model itself",
                got=f"{type(model).__name__}, which wraps one",
                fix=f"Patch and call the model inside: model.{name}.",
            )
    return cast(PreTrainedModel, model)


def _require_no_virtual_tokens(model: Any) -> None:
    config = model.active_peft_config
    if getattr(config, "is_prompt_learning", False):
        raise PatchError(
            "model",
            expected="adapters of PEFT inside the layers, as LoRA",
            got=f"{type(config).__name__}, whose virtual tokens stand before the prompt",
            fix="Run it without a patch.",
        )
