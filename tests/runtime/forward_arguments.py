"""A call of a model's forward for each of its arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedModel, StaticCache

from aim_runtime.seams import with_cache
from tests.runtime.models import (
    llama_config,
    prompt_of,
    tiny_llava_15,
    tiny_next,
    tiny_next_video,
)
from tests.runtime.qwen import qwen_inputs, rope_table, tiny_qwen
from tests.runtime.support import tiny_llava, tiny_qwen2, video_inputs
from tests.runtime.test_images import image_inputs

Inputs = dict[str, Any]


class Reduced(Enum):
    """What a call does under a schedule that reduces."""

    SAME = "as the call without the argument"
    LAST = "the last logits of the call without the argument"
    REFUSED = "a PatchError that names the argument, or what is wrong with it"
    ELSEWHERE = "right as a test of its own says, or a PatchError as REFUSED"


@dataclass(frozen=True)
class Case:
    """A call with an argument.

    Args:
        change: makes it of a model and inputs that have nothing special.
        named: in the error, if not the argument itself.
        bare: what it does on a bare language model, if something else.
    """

    change: Callable[[PreTrainedModel, Inputs], Inputs]
    reduced: Reduced = Reduced.SAME
    named: str = ""
    bare: Reduced | None = None


def _given(reduced: Reduced = Reduced.SAME, named: str = "", **given: Any) -> Case:
    return Case(lambda _, inputs: inputs | given, reduced, named)


def _of(name: str, make: Callable[[PreTrainedModel, Inputs], Any], **how: Any) -> Case:
    return Case(lambda model, inputs: inputs | {name: make(model, inputs)}, **how)


def _without(*names: str, reduced: Reduced = Reduced.REFUSED, named: str = "") -> Case:
    return Case(
        lambda _, inputs: {name: x for name, x in inputs.items() if name not in names},
        reduced,
        named,
    )


def _shape(inputs: Inputs) -> tuple[int, int]:
    return tuple(inputs["input_ids"].shape)


def _causal(inputs: Inputs) -> Tensor:
    rows, tokens = _shape(inputs)
    return torch.ones(rows, 1, tokens, tokens, dtype=torch.bool).tril()


def _hole(inputs: Inputs) -> Tensor:
    mask = torch.ones(_shape(inputs), dtype=torch.int64)
    mask[:, 1] = 0
    return mask


def _right(inputs: Inputs) -> Tensor:
    mask = torch.ones(_shape(inputs), dtype=torch.int64)
    mask[:, -1] = 0
    return mask


def _embeds(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    return model.get_input_embeddings()(inputs["input_ids"]).detach()


def _embedded(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    return {"inputs_embeds": _embeds(model, inputs)}


def _static(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    config = model.config.get_text_config()
    cache = StaticCache(config=config, max_cache_len=_shape(inputs)[1] + 8)
    return inputs | with_cache(cache)


def _foreign(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """New text after a cache that nobody knows."""
    config, cache = model.config.get_text_config(), DynamicCache()
    for layer in range(config.num_hidden_layers):
        width = config.hidden_size // config.num_attention_heads
        keys, values = torch.randn(2, 1, config.num_key_value_heads, 6, width)
        cache.update(keys, values, layer)
    return {"input_ids": torch.arange(3)[None]} | with_cache(cache)


def _features(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Features encoded ahead, as ``generate`` of newer transformers does."""
    ready = {}
    inputs = dict(inputs)
    for modality, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if pixels in inputs:
            encode = getattr(model.model, f"get_{modality}_features")
            names = {"image_sizes", "batch_num_images"} if modality == "image" else set()
            names |= {f"{modality}_grid_thw"}
            given = {name: inputs[name] for name in names & inputs.keys()}
            ready[modality] = encode(inputs.pop(pixels), **given, return_dict=True)
    return inputs | {"mm_encoder_outputs": ready}


def _text_labels(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    return labels


def _positions(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    if hasattr(model.model, "get_rope_index"):
        return rope_table(model, inputs)
    return torch.arange(_shape(inputs)[1])[None]


SAME, LAST, REFUSED, ELSEWHERE = Reduced

CASES: dict[str, dict[str, Case]] = {
    "input_ids": {"given": _given()},
    "pixel_values": {"given": _given(), "none": _without("pixel_values", named="pixel_values")},
    "pixel_values_videos": {
        "given": _given(),
        "none": _without("pixel_values_videos", named="pixel_values_videos"),
    },
    "image_sizes": {"given": _given(), "none": _without("image_sizes", named="image_sizes")},
    "image_sizes_videos": {"given": _given(image_sizes_videos=torch.tensor([[75, 75]]))},
    "batch_num_images": {"given": _given()},
    "image_grid_thw": {
        "given": _given(),
        "none": _without("image_grid_thw", named="image_grid_thw"),
    },
    "video_grid_thw": {
        "given": _given(),
        "none": _without("video_grid_thw", named="video_grid_thw"),
    },
    "mm_token_type_ids": {
        "given": _given(),
        "none": _without("mm_token_type_ids", named="mm_token_type_ids"),
    },
    "second_per_grid_ts": {
        "given": _given(),
        "slower": _of(
            "second_per_grid_ts", lambda _, x: x["second_per_grid_ts"] * 3, reduced=ELSEWHERE
        ),
    },
    "attention_mask": {
        "none": _without("attention_mask", reduced=SAME),
        "ones": _of("attention_mask", lambda _, x: torch.ones(_shape(x), dtype=torch.int64)),
        "bool": _of("attention_mask", lambda _, x: torch.ones(_shape(x), dtype=torch.bool)),
        "hole": _of("attention_mask", lambda _, x: _hole(x), reduced=REFUSED),
        "right padding": _of("attention_mask", lambda _, x: _right(x), reduced=REFUSED),
        "4-D": _of("attention_mask", lambda _, x: _causal(x), reduced=REFUSED),
        "4-D of its own": _of(
            "attention_mask",
            lambda _, x: _causal(x) & (torch.rand(_causal(x).shape) < 0.9) | _causal(x).triu(),
            reduced=REFUSED,
        ),
    },
    "position_ids": {
        "default": _of("position_ids", _positions),
        "shifted": _of("position_ids", lambda model, x: _positions(model, x) + 11),
        "stretched": _of(
            "position_ids", lambda model, x: 2 * _positions(model, x), reduced=ELSEWHERE
        ),
    },
    "cache": {
        "empty": Case(lambda _, x: x | with_cache(DynamicCache())),
        "static": Case(_static, REFUSED, "cache_implementation"),
        "foreign": Case(_foreign, REFUSED, "cached"),
    },
    "inputs_embeds": {
        "text": Case(_embedded, REFUSED, bare=SAME),
        "with pixels": Case(
            lambda model, x: {n: v for n, v in x.items() if n != "input_ids"} | _embedded(model, x),
            REFUSED,
            bare=SAME,
        ),
        "with ids": Case(lambda model, x: x | _embedded(model, x)),
    },
    "vision_feature_layer": {
        "own": _of("vision_feature_layer", lambda model, _: model.config.vision_feature_layer),
        "another": _given(vision_feature_layer=1, reduced=ELSEWHERE),
    },
    "vision_feature_select_strategy": {
        "own": _of(
            "vision_feature_select_strategy",
            lambda model, _: model.config.vision_feature_select_strategy,
        ),
        "another": _of(
            "vision_feature_select_strategy",
            lambda model, _: (
                "full" if model.config.vision_feature_select_strategy == "default" else "default"
            ),
            reduced=REFUSED,
        ),
    },
    "vision_aspect_ratio": {
        "own": _given(vision_aspect_ratio="anyres_max_9"),
        "another": _given(vision_aspect_ratio="anyres_max_1", reduced=REFUSED),
    },
    "labels": {
        "text": _of("labels", _text_labels),
        "visual": _of("labels", lambda _, x: x["input_ids"], reduced=REFUSED),
    },
    "use_cache": {"off": _given(use_cache=False), "on": _given(use_cache=True)},
    "logits_to_keep": {
        "all": _given(logits_to_keep=0),
        "one": _given(logits_to_keep=1, reduced=LAST),
        "some": _given(logits_to_keep=3, reduced=LAST),
        "many": _of("logits_to_keep", lambda _, x: _shape(x)[1] - 1, reduced=REFUSED),
        "places": _of(
            "logits_to_keep", lambda _, x: _shape(x)[1] - torch.tensor([3, 2, 1]), reduced=LAST
        ),
        "from the end": _given(logits_to_keep=torch.tensor([-2, -1]), reduced=LAST),
        "visual": _given(logits_to_keep=torch.tensor([5, 6]), reduced=REFUSED),
        "each row": _of(
            "logits_to_keep", lambda _, x: _shape(x)[1] - torch.tensor([[2, 1]]), reduced=REFUSED
        ),
        "mask": _of(
            "logits_to_keep", lambda _, x: torch.ones(_shape(x), dtype=torch.bool), reduced=REFUSED
        ),
    },
    "mm_encoder_outputs": {"ahead": Case(_features)},
    "return_dict": {"off": _given(return_dict=False)},
    # what transformers passes on
    "num_items_in_batch": {
        "given": Case(lambda m, x: x | {"labels": _text_labels(m, x), "num_items_in_batch": 7})
    },
    "output_hidden_states": {"on": _given(output_hidden_states=True)},
    "output_attentions": {"on": _given(output_attentions=True)},
    "output_router_logits": {"on": _given(output_router_logits=True)},
    "cu_seq_lens_q": {"given": _given(cu_seq_lens_q=torch.tensor([0, 20], dtype=torch.int32))},
    "cu_seq_lens_k": {"given": _given(cu_seq_lens_k=torch.tensor([0, 20], dtype=torch.int32))},
    "max_length_q": {"given": _given(max_length_q=20)},
    "max_length_k": {"given": _given(max_length_k=20)},
    "seq_idx": {"given": _given(seq_idx=torch.tensor([[0]]))},
    "is_causal": {
        "on": _given(is_causal=True, reduced=ELSEWHERE),  # which CLIP hears too
        "off": _given(is_causal=False, reduced=REFUSED),
    },
    "shift_labels": {
        "given": Case(
            lambda m, x: x | {"labels": _text_labels(m, x), "shift_labels": _text_labels(m, x)},
            REFUSED,
        )
    },
}
CASES["past_key_values"] = CASES["cache"]


def _video(kind: str) -> Callable[[PreTrainedModel], Inputs]:
    return lambda _: qwen_inputs(kind, [4, (3, 6, 8), 6])


def _picture(kind: str) -> Callable[[PreTrainedModel], Inputs]:
    return lambda _: qwen_inputs(kind, [4, (6, 8), 6])


def _mask_of(tokens: int = 20) -> Tensor:
    mask = torch.zeros(1, tokens, dtype=torch.bool)
    mask[:, 3:14] = True
    return mask


def _llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config(6)).eval()


def _ids(_: PreTrainedModel) -> Inputs:
    ids = torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(4))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@dataclass(frozen=True)
class Kind:
    """A model, prompts for it, and the mask of a bare language model."""

    make: Callable[[], PreTrainedModel]
    inputs: Callable[[PreTrainedModel], Inputs]
    visual_mask: Tensor | None = None


def _anyres(model: PreTrainedModel) -> Inputs:
    inputs = image_inputs(model, [(100, 140)])
    ids = torch.cat([inputs["input_ids"], torch.tensor([[7, 8, 9]])], dim=1)
    return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


KINDS = {
    "onevision video": Kind(tiny_llava, lambda _: video_inputs()),
    "onevision image": Kind(tiny_llava, _anyres),
    "llava-1.5": Kind(tiny_llava_15, lambda model: prompt_of(model, (4, "image", 5))),
    "next": Kind(tiny_next, lambda model: prompt_of(model, (4, (50, 100), 5))),
    "next-video": Kind(tiny_next_video, lambda model: prompt_of(model, (4, "video 3", 5))),
    "qwen2-vl video": Kind(lambda: tiny_qwen("qwen2-vl"), _video("qwen2-vl")),
    "qwen2-vl image": Kind(lambda: tiny_qwen("qwen2-vl"), _picture("qwen2-vl")),
    "qwen2.5-vl video": Kind(lambda: tiny_qwen("qwen2.5-vl"), _video("qwen2.5-vl")),
    "qwen2.5-vl image": Kind(lambda: tiny_qwen("qwen2.5-vl"), _picture("qwen2.5-vl")),
    "qwen2": Kind(tiny_qwen2, _ids, _mask_of()),
    "llama": Kind(_llama, _ids, _mask_of()),
}
