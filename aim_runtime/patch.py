"""One verb: run a schedule inside a transformers model, without a fork.

Merging wraps the model's pooling; dropping happens in forward hooks of the decoder layers, or
inside a layer in a forward of our own; scores come from an attention function that sees q and k
after the rotary embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen2Model,
)

from aim_cost.schedule import Schedule
from aim_runtime.attention import SUPPORTED_ATTENTION
from aim_runtime.errors import PatchError
from aim_runtime.executable import check_executable
from aim_runtime.hooks import Hooks
from aim_runtime.llava import Layout
from aim_runtime.prompt import Prompt, embedded_prompt
from aim_runtime.spans import NULL_RECORDER, Recorder
from aim_runtime.trace import RunTrace

SUPPORTED_MODELS = (LlavaOnevisionForConditionalGeneration, Qwen2ForCausalLM)
_PATCH = "_aim_patch"


@contextmanager
def patched(
    model: PreTrainedModel,
    schedule: Schedule,
    *,
    visual_mask: Tensor | None = None,
    recorder: Recorder = NULL_RECORDER,
) -> Iterator[RunTrace]:
    """Run ``model`` under ``schedule`` inside the ``with`` block; see ``patch``."""
    trace = patch(model, schedule, visual_mask=visual_mask, recorder=recorder)
    try:
        yield trace
    finally:
        unpatch(model)


def patch(
    model: PreTrainedModel,
    schedule: Schedule,
    *,
    visual_mask: Tensor | None = None,
    recorder: Recorder = NULL_RECORDER,
) -> RunTrace:
    """Make ``model`` merge and drop visual tokens as ``schedule`` says, until ``unpatch``.

    ``model(...)`` and ``model.generate(...)`` are called as before. LLaVA-OneVision takes the
    prompts its processor writes: videos, several in a prompt too; images, pruned but not merged;
    text alone, which nothing reduces; batches padded on the left, whose rows have as many visual
    tokens each; and further text behind the cache of a prompt. The logits of a prefill are those of
    the tokens that are left (``trace.kept[-1]``); ``Schedule()`` changes no bit.

    Args:
        model: LlavaOnevisionForConditionalGeneration, or a bare Qwen2ForCausalLM (pruning only).
        visual_mask: bool [B, n], True at visual tokens. Required by a bare Qwen2ForCausalLM and by
            LLaVA-OneVision called with ``inputs_embeds``; every prompt must then fit it.
        recorder: is told when merging and scoring happen.
    Returns: the trace, rewritten by every prefill.
    Raises: PatchError, ScheduleError. Everything is checked before the model is changed.
    """
    decoder = _checked_decoder(model)
    check_executable(schedule, len(decoder.layers))
    layout = _layout(model, schedule)
    embedded = _embedded_prompt(model, schedule, visual_mask)
    hooks = Hooks(model, decoder, schedule, layout=layout, embedded=embedded, recorder=recorder)
    hooks.attach()
    setattr(decoder, _PATCH, hooks)
    return hooks.trace


def unpatch(model: PreTrainedModel) -> None:
    """Restore ``model`` as it was before ``patch``. Raises: PatchError if it is not patched."""
    decoder = _decoder(model)
    hooks = getattr(decoder, _PATCH, None)
    if hooks is None:
        raise PatchError(
            type(model).__name__,
            expected="a patched model",
            got="one that is not",
            fix="Call patch(model, schedule) first.",
        )
    delattr(decoder, _PATCH)
    hooks.detach()


def _decoder(model: PreTrainedModel) -> Qwen2Model:
    decoder = None
    if isinstance(model, LlavaOnevisionForConditionalGeneration):
        decoder = model.model.language_model
    elif isinstance(model, Qwen2ForCausalLM):
        decoder = model.model
    if isinstance(decoder, Qwen2Model):
        return decoder
    raise PatchError(
        "model",
        expected=f"one of {', '.join(kind.__name__ for kind in SUPPORTED_MODELS)}, with a Qwen2",
        got=type(model).__name__ + (f" with {type(decoder).__name__}" if decoder else ""),
        fix="Other models are not supported yet.",
    )


def _checked_decoder(model: PreTrainedModel) -> Qwen2Model:
    decoder = _decoder(model)
    if getattr(decoder, _PATCH, None) is not None:
        raise PatchError(
            type(model).__name__,
            expected="a model that is not patched",
            got="a patched one",
            fix="Call unpatch(model) first, or leave the with block.",
        )
    implementation = decoder.config._attn_implementation
    if implementation not in SUPPORTED_ATTENTION:
        raise PatchError(
            "attention implementation",
            expected=f"one of {', '.join(SUPPORTED_ATTENTION)}",
            got=implementation,
            fix="Call model.set_attn_implementation('sdpa') first.",
        )
    partial = set(decoder.config.layer_types) - {"full_attention"}
    if partial:
        raise PatchError(
            "layer_types",
            expected="full_attention in every layer",
            got=", ".join(sorted(partial)),
            fix="Set use_sliding_window=False, if the model allows it.",
        )
    return decoder


def _layout(model: PreTrainedModel, schedule: Schedule) -> Layout | None:
    if not isinstance(model, LlavaOnevisionForConditionalGeneration):
        return None
    vision = model.config.vision_config
    # pooling halves the grid of patches, rounding up
    frame_tokens = ((vision.image_size // vision.patch_size + 1) // 2) ** 2
    merge_tokens = schedule.merge.token_counts(frame_tokens) if schedule.merge else (frame_tokens,)
    return Layout(model.config.video_token_id, model.config.image_token_id, merge_tokens)


def _embedded_prompt(
    model: PreTrainedModel, schedule: Schedule, visual_mask: Tensor | None
) -> Prompt | None:
    if visual_mask is None:
        if isinstance(model, LlavaOnevisionForConditionalGeneration):
            return None
        raise PatchError(
            "visual_mask",
            expected=f"a bool mask [batch, prompt tokens], for a bare {type(model).__name__}",
            got="none",
            fix="Pass visual_mask=mask, True at visual tokens.",
        )
    if schedule.merge is not None or schedule.vision_merge is not None:
        raise PatchError(
            "schedule.merge" if schedule.merge is not None else "schedule.vision_merge",
            expected="no merging: it acts on a video, before it is embedded",
            got=schedule.label(),
            fix="Prune only, or give the video to LLaVA-OneVision without visual_mask.",
        )
    return embedded_prompt(visual_mask)
