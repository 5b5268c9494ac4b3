"""Prompts in caches: schedules, models, questions, and steps after a cache, for tests."""

import copy
import io
import pickle

import torch

from aim_cost import Schedule
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.qwen import qwen_inputs, tiny_qwen
from tests.runtime.support import (
    tiny_llava,
    video_inputs,
)

GREEDY = {"max_new_tokens": 3, "do_sample": False}
LOGITS = {"return_dict_in_generate": True, "output_logits": True}
RECOUNTED = Schedule.parse("merge 0.5, prune linear:1:3")
KEPT = Schedule.parse("merge 0.5 positions=kept, prune linear:1:3 drop=after-attention")
PRUNED = Schedule.parse("prune linear:1:3")
REDUCING = [RECOUNTED, KEPT, PRUNED, Schedule.parse("merge 0.5"), Schedule.parse("vision-merge 4")]
QUESTIONS = ([17, 18, 19], [31, 32], [5, 6, 7, 8, 9])


def reloaded(cache):
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
    "a file": reloaded,
}


MODELS = ("llava", "qwen2.5-vl")


def model_and_prompt(name):
    """A model, one of MODELS, and a prompt with a video."""
    if name == "llava":
        return tiny_llava(), video_inputs()
    return tiny_qwen("qwen2.5-vl"), qwen_inputs("qwen2.5-vl", [4, (2, 8, 8), 3])


def schedules_of(model):
    has_siglip = hasattr(model.model, "vision_tower")
    return [s for s in REDUCING if has_siglip or s.vision_merge is None]


def cached(model, inputs):
    """The cache of a prompt after its prefill."""
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.all()):  # as generate counts them, before and after
        inputs = inputs | {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        return cache_of(model(**inputs, use_cache=True))


def ask(model, inputs, cache, question, **more):
    """Logits [B, new, V] of an answer to ``question``, after the prompt that is cached."""
    words = torch.tensor(question).expand(len(inputs["input_ids"]), -1)
    call = {"input_ids": torch.cat([inputs["input_ids"], words], dim=1)}
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            tail = torch.full_like(words, fill)
            call[name] = torch.cat([inputs[name], tail], dim=1)
    output = model.generate(**call, **with_cache(cache), **GREEDY, **LOGITS, **more)
    assert torch.equal(output.sequences[:, : call["input_ids"].shape[1]], call["input_ids"])
    return torch.stack(output.logits, dim=1)


def step(model, cache, word=9):
    """Logits of one more token, by hand."""
    rows = torch.full((cache.layers[0].keys.shape[0], 1), word)
    with torch.no_grad():
        return model(input_ids=rows, **with_cache(cache)).logits
