"""Tells whether the model's name in a file of scores means the model that is asked for."""

from aim_cost.models.model import ModelSpec, preset_names

_CONVERTED = {
    "lmms-lab/llava-onevision-qwen2-0.5b-ov": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "lmms-lab/llava-onevision-qwen2-7b-ov": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "lmms-lab/llava-onevision-qwen2-72b-ov": "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    "lmms-lab/LLaVA-NeXT-Video-7B": "llava-hf/LLaVA-NeXT-Video-7B-hf",
    "liuhaotian/llava-v1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "liuhaotian/llava-v1.5-13b": "llava-hf/llava-1.5-13b-hf",
    "liuhaotian/llava-v1.6-vicuna-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "liuhaotian/llava-v1.6-mistral-7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    "liuhaotian/llava-v1.6-34b": "llava-hf/llava-v1.6-34b-hf",
}
"""Hub names of the weights that scripts of transformers (``convert_*_weights_to_hf.py``) turned
into those on the right. Others (``-si``, ``-ov-chat``) are other weights."""


def is_checkpoint_of(name: str, model: ModelSpec) -> bool:
    """Whether ``name`` means ``model``: its name in tables, or a hub name of its weights.

    A config of one's own keeps in ``_name_or_path`` what it was made from, so it goes by its own
    name alone, unless that is the last part of the hub name.
    """
    if name == model.name:
        return True
    checkpoint = model.checkpoint
    if checkpoint is None or _CONVERTED.get(name, name) != checkpoint:
        return False
    return model.name in (checkpoint, checkpoint.rpartition("/")[2], *preset_names())
