"""One verb: run a schedule inside a transformers model, without a fork.

Merging wraps the model's pooling; dropping happens in forward hooks of the decoder layers; scores
come from an attention function that sees q and k after the rotary embedding.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen2Model,
)

from aim_cost.schedule import Schedule
from aim_runtime.attention import SUPPORTED_ATTENTION, observed_name
from aim_runtime.errors import PatchError
from aim_runtime.generate import with_own_prompt
from aim_runtime.llava import VideoLayout
from aim_runtime.merge import merge_passes
from aim_runtime.prefill import Prefill
from aim_runtime.prompt import Prompt, embedded_prompt
from aim_runtime.spans import NULL_RECORDER, Recorder
from aim_runtime.trace import RunTrace

SUPPORTED_MODELS = (LlavaOnevisionForConditionalGeneration, Qwen2ForCausalLM)

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


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
    prompts its processor writes. The logits of a prefill are those of the tokens that are left
    (``trace.kept[-1]``); ``Schedule()`` changes no bit.

    Args:
        model: LlavaOnevisionForConditionalGeneration, or a bare Qwen2ForCausalLM (pruning only).
        visual_mask: bool [B, n], True at visual tokens. Required by a bare Qwen2ForCausalLM and by
            LLaVA-OneVision called with ``inputs_embeds``; every prompt must then fit it.
        recorder: is told when merging and scoring happen.
    Returns: the trace, rewritten by every prefill.
    Raises: PatchError, ScheduleError. Everything is checked before the model is changed.
    """
    decoder = _decoder(model)
    if _patch_of(decoder) is not None:
        raise PatchError(
            type(model).__name__,
            expected="a model that is not patched",
            got="a patched one",
            fix="Call unpatch(model) first, or leave the with block.",
        )
    new = _Patch(model, decoder, schedule, visual_mask, recorder)
    new.apply()
    decoder._aim_patch = new
    return new.trace


def unpatch(model: PreTrainedModel) -> None:
    """Restore ``model`` as it was before ``patch``. Raises: PatchError if it is not patched."""
    decoder = _decoder(model)
    existing = _patch_of(decoder)
    if existing is None:
        raise PatchError(
            type(model).__name__,
            expected="a patched model",
            got="one that is not",
            fix="Call patch(model, schedule) first.",
        )
    del decoder._aim_patch
    existing.undo.close()


class _Patch:
    """The hooks of one patched model, and what passes between them."""

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: Qwen2Model,
        schedule: Schedule,
        visual_mask: Tensor | None,
        recorder: Recorder,
    ) -> None:
        self.model, self.decoder, self.schedule, self.recorder = model, decoder, schedule, recorder
        self.trace = RunTrace()
        self.undo = ExitStack()
        self._stock_attention = _checked_attention(decoder)
        if schedule.prune is not None:
            schedule.prune.ratio_after_layer(len(decoder.layers))
        self._layout = _video_layout(model, schedule)
        self._embedded = None if visual_mask is None else embedded_prompt(visual_mask)
        if self._layout is None and self._embedded is None:
            raise PatchError(
                "visual_mask",
                expected=f"a bool mask [batch, prompt tokens], for a bare {type(model).__name__}",
                got=None,
                fix="Pass visual_mask=mask, True at visual tokens.",
            )
        self._prompt: Prompt | None = None  # of the call under way
        self._pooled: tuple[int, tuple[int, ...]] | None = None  # frames, their token counts
        self._prefill: Prefill | None = None

    def apply(self) -> None:
        """Change the model; on failure leave it as it was."""
        with self.undo as undo:
            decoder, stock = self.decoder, self._stock_attention
            undo.callback(decoder.set_attn_implementation, stock)
            decoder.set_attn_implementation(observed_name(stock))
            self._hook(decoder.register_forward_pre_hook, self._begin)
            self._hook(decoder.register_forward_hook, self._finish)
            for layer in decoder.layers:
                self._hook(layer.register_forward_pre_hook, self._enter_layer)
                self._hook(layer.mlp.register_forward_pre_hook, self._enter_mlp)
            if self._layout is not None:
                inner = self.model.model
                self._hook(inner.register_forward_pre_hook, self._prepare)
                self._replace(inner, "apply_pooling", self._pool_and_merge(inner.apply_pooling))
                generate = with_own_prompt(self.model.generate, self._shorten)
                self._replace(self.model, "generate", generate)
            self.undo = undo.pop_all()

    def _hook(self, register: Callable[..., Any], hook: Callable[..., Any]) -> None:
        self.undo.callback(register(hook, with_kwargs=True).remove)

    def _replace(self, owner: nn.Module, name: str, value: Any) -> None:
        own = vars(owner).get(name)
        self.undo.callback(delattr, owner, name) if own is None else self.undo.callback(
            setattr, owner, name, own
        )
        setattr(owner, name, value)

    # In the order in which they run:

    def _shorten(self, inputs: Kwargs) -> Kwargs:
        """Before ``generate``."""
        _empty_cache(inputs.get("past_key_values"))
        return self._layout.prepare(inputs)[0]

    def _prepare(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Before the vision-language model: shorten the prompt, note where its video is."""
        inputs = _named(module, args, kwargs)
        self._prompt = None
        if inputs.get("inputs_embeds") is None and not _cached_tokens(inputs):
            if self._embedded is not None:
                raise PatchError(
                    "visual_mask",
                    expected="inputs_embeds, which it describes",
                    got="input_ids",
                    fix="Patch without visual_mask: placeholders are found in input_ids.",
                )
            inputs, self._prompt = self._layout.prepare(inputs)
        return (), inputs

    def _pool_and_merge(self, pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def pool_and_merge(features: Tensor) -> Tensor:
            # [frames, patches, hidden] -> [frames, kept, hidden]
            x = pool(features)
            counts = [x.shape[1]]
            if self.schedule.merge is not None:
                with self.recorder.span("merge"):
                    for x in merge_passes(x, self.schedule.merge.token_counts(counts[0])):
                        counts.append(x.shape[1])
            self._pooled = (x.shape[0], tuple(counts))
            return x

        return pool_and_merge

    def _begin(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Before the decoder: a prefill starts, or a decode step passes untouched."""
        inputs = _named(module, args, kwargs)
        self._prefill = None
        x = inputs.get("inputs_embeds")
        x = inputs["input_ids"] if x is None else x
        if _cached_tokens(inputs) and x.shape[1] == 1:
            return (), inputs
        _empty_cache(inputs.get("past_key_values"))
        _no_padding(inputs.get("attention_mask"))
        prompt = self._prompt or self._embedded
        if prompt is None:
            raise PatchError(
                "inputs_embeds",
                expected="a visual_mask beside it",
                got="none",
                fix="Patch with visual_mask=mask, True at visual tokens.",
            )
        batch = x.shape[0]
        prompt = prompt.expand(batch)
        if prompt.visual_mask.shape != x.shape[:2]:
            raise PatchError(
                "prompt",
                expected=f"the shape of its visual mask, {tuple(prompt.visual_mask.shape)}",
                got=tuple(x.shape[:2]),
                fix="Give whole prompts in one prefill (no prefill_chunk_size), or another mask.",
            )
        plan = self.schedule.resolve_visual(
            prompt.visual,
            text_tokens=prompt.text_tokens,
            layers=len(self.decoder.layers),
            batch=batch,
        )
        self._prefill = Prefill(
            plan,
            prompt,
            device=x.device,
            merge_tokens=self._recorded_merge(prompt),
            recorder=self.recorder,
        )
        return (), inputs

    def _recorded_merge(self, prompt: Prompt) -> tuple[int, ...]:
        if prompt is not self._prompt:
            pass
        return ()

    def _enter_layer(
        self, module: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        if self._prefill is None:
            return None
        hidden_states, kwargs = self._prefill.enter_layer(args[0], kwargs)
        return (hidden_states, *args[1:]), kwargs

    def _enter_mlp(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        if self._prefill is not None:
            self._prefill.observe_mlp(args[0])

    def _finish(self, module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:
        """After the decoder: write the trace."""
        if self._prefill is None:
            return
        cache = kwargs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) if cache is None else cache
        lengths = () if cache is None else tuple(
            cache.get_seq_length(layer) for layer in range(len(self.decoder.layers))
        )
        self._prefill.finish(self.trace, lengths)
        self._prefill = None
