"""One adapter a model: what patching needs to know about it, and nothing else."""

from transformers import PreTrainedModel

from aim_runtime.models.adapter import Adapter
from aim_runtime.models.llava import LlavaAdapter
from aim_runtime.models.llava_next_video import LlavaNextVideoAdapter
from aim_runtime.models.llava_onevision import LlavaOnevisionAdapter
from aim_runtime.models.qwen2_vl import Qwen2VLAdapter

ADAPTERS: tuple[type[Adapter], ...] = (
    LlavaOnevisionAdapter,
    LlavaAdapter,
    LlavaNextVideoAdapter,
    Qwen2VLAdapter,
)


def find_adapter(model: PreTrainedModel) -> Adapter | None:
    """The adapter of a vision-language model; None for other models."""
    for adapter in ADAPTERS:
        if isinstance(model, adapter.kinds):
            return adapter(model)
    return None
