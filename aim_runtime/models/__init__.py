"""Adapters: what patching needs to know about each class of models."""

from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedModel

from aim_cost.models.model import ModelSpec
from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter, config_class
from aim_runtime.models.adapters import ADAPTERS

MODEL_TYPES: dict[str, type[PreTrainedModel]] = {
    config_class(kind).model_type: kind for adapter in ADAPTERS for kind in adapter.kinds
}
"""The classes of vision-language models, by the model_type of their configs."""


def find_adapter(model: PreTrainedModel) -> Adapter | None:
    """The adapter of a vision-language model; None for other models."""
    for adapter in ADAPTERS:
        if isinstance(model, adapter.kinds):
            return adapter(model)
    return None


def require_onevision_spec(spec: ModelSpec, what: str) -> None:
    """Raises: PatchError for the dimensions of another model, before its weights are fetched."""
    kind = LlavaOnevisionForConditionalGeneration
    if spec.model_type != config_class(kind).model_type:
        raise PatchError(
            what,
            expected="a LLaVA-OneVision",
            got=spec.model_type,
            fix="Run it with the inputs of its own processor, inside patched(model, schedule).",
        )


def require_onevision(model: PreTrainedModel, what: str) -> LlavaOnevisionForConditionalGeneration:
    """``model``, checked. Raises: PatchError for other models, which ``what`` does not know."""
    if not isinstance(model, LlavaOnevisionForConditionalGeneration):
        raise PatchError(
            what,
            expected="a LLaVA-OneVision",
            got=type(model).__name__,
            fix="Run it with the inputs of its own processor, inside patched(model, schedule).",
        )
    return model
