"""Prompts: of a given size for measurements, or a question about a video for LLaVA-OneVision."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from aim_cost.checks import whole
from aim_cost.models.workload import Workload
from aim_runtime.errors import InputError
from aim_runtime.models import MODEL_TYPES, find_adapter, require_onevision
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.load import Loaded
from aim_runtime.models.visual import MODALITIES
from aim_runtime.prompts.pixels import random_pixels
from aim_runtime.prompts.video import pixel_values

_MEAN_STD = (0.5, 0.5, 0.5)  # SigLIP's preprocessing


def sized_inputs(
    loaded: Loaded, workload: Workload, *, video: np.ndarray | None = None, seed: int = 0
) -> Inputs:
    """Inputs for ``model(**inputs)`` with exactly the tokens of ``workload``.

    Args:
        video: uint8 [frames, H, W, 3] for all prompts of a LLaVA-OneVision; random pixels without
            it, never zeros.
        seed: of the random text and pixels.
    Returns: ``input_ids`` [batch, n] with random text around the visual tokens and between images,
        ``attention_mask``, and the pixels as the processor of the model names and shapes them.
    Raises: InputError with too little text, when ``video`` has other than ``workload.frames``
        frames, or where the model takes no such images; SpecError where it takes no video.
    """
    whole(workload.text_tokens, "text_tokens", InputError)
    generator = torch.Generator().manual_seed(seed)
    modality = "image" if workload.frames is None else "video"
    adapter, batch = find_adapter(loaded.model), workload.batch
    if adapter is None:
        raise InputError(
            "model",
            expected=f"one of {', '.join(kind.__name__ for kind in MODEL_TYPES.values())}",
            got=type(loaded.model).__name__,
            fix="Only these take images or videos.",
        )
    if video is None:
        pixels = random_pixels(loaded.spec, workload, generator)
    else:
        pixels = {"pixel_values_videos": _same_video(loaded, workload, video)}
    items = adapter.items_of_pixels(pixels, modality)
    alike = items[: len(items) // batch]  # in each prompt
    runs = [tokens for item in alike for tokens in adapter.runs_of(item)]
    if adapter.has_axes and 1 < len(runs) >= workload.text_tokens:
        what = "images" if len(alike) > 1 else "temporal patches"
        raise InputError(
            "text_tokens",
            expected=f"at least {len(runs) + 1}: neither of {len(runs)} {what} touches another",
            got=workload.text_tokens,
            fix="Give more text.",
        )
    # ids below the special tokens, which stand at the end of the vocabulary
    vocabulary = min(*adapter.placeholders.values(), loaded.spec.text.vocab_size)
    text = torch.randint(
        0, vocabulary, (batch, workload.text_tokens), generator=generator, device="cpu"
    )
    cuts = [i * workload.text_tokens // (len(runs) + 1) for i in range(1, len(runs) + 1)]
    first, *pieces = text.tensor_split(cuts, dim=1)
    parts = [first]
    for tokens, piece in zip(runs, pieces, strict=True):
        parts += [torch.full((batch, tokens), adapter.placeholders[modality], device="cpu"), piece]
    ids = torch.cat(parts, dim=1).to(loaded.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if adapter.has_axes:
        kind = 1 + MODALITIES.index(modality)
        inputs["mm_token_type_ids"] = kind * ids.eq(adapter.placeholders[modality]).int()
    dtype = getattr(torch, loaded.dtype)
    return inputs | {
        name: value.to(loaded.device, dtype if value.is_floating_point() else None)
        for name, value in pixels.items()
    }


def _same_video(loaded: Loaded, workload: Workload, video: np.ndarray) -> torch.Tensor:
    """Pixels of ``video`` for each prompt, float32 [batch, frames, 3, size, size]."""
    require_onevision(loaded.model, "video")
    if len(video) != workload.frames:
        raise InputError(
            "video",
            expected=f"{workload.frames} frames",
            got=len(video),
            fix="Sample as many frames as the workload has.",
        )
    pixels = pixel_values(video, loaded.spec.square_side, _MEAN_STD, _MEAN_STD)
    return pixels.repeat(workload.batch, 1, 1, 1, 1)


def question_inputs(loaded: Loaded, video: np.ndarray, question: str) -> tuple[Inputs, Any]:
    """Inputs for a question about ``video`` (uint8 [frames, H, W, 3]), and the tokenizer.

    The prompt is the one-turn form of LLaVA-OneVision's chat template; mean and deviation of the
    pixels are those of the checkpoint. Raises: InputError when tokenizer or preprocessor lack,
    PatchError for other models.
    """
    require_onevision(loaded.model, "a question about a video")
    tokenizer, mean, std = _tokenizer_and_normalisation(loaded.source)
    visual = Workload(text_tokens=1, frames=len(video)).visual_input(loaded.spec)
    placeholders = visual.groups * visual.group_tokens + visual.newline_tokens
    before, after = (
        tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        for text in ("<|im_start|>user ", f"\n{question}<|im_end|><|im_start|>assistant\n")
    )
    middle = torch.full((1, placeholders), loaded.config.video_token_id, device="cpu")
    ids = torch.cat([before, middle, after], dim=1).to(loaded.device)
    pixels = pixel_values(video, loaded.spec.square_side, mean, std)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixels.to(loaded.device, getattr(torch, loaded.dtype)),
    }, tokenizer


@lru_cache(maxsize=1)  # reading them takes longer than a small prefill
def _tokenizer_and_normalisation(source: str | None) -> tuple[Any, list[float], list[float]]:
    from transformers import AutoTokenizer
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    try:
        if source is None:
            raise ValueError("a config without a checkpoint")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        processor = SiglipImageProcessorPil.from_pretrained(source)
    except Exception as error:  # transformers raises OSError, ValueError, TypeError and its own
        raise InputError(
            f"checkpoint {source}",
            expected="a tokenizer and a preprocessor_config.json beside the weights",
            got=" ".join(str(error).split())[:200],
            fix="Give a complete checkpoint folder or hub name as --model.",
        ) from error
    return tokenizer, processor.image_mean, processor.image_std
