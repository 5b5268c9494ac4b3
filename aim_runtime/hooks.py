"""The hooks of one patched model, in the order in which they run, and what passes between them."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, Qwen2Model

from aim_cost.schedule import Schedule
from aim_runtime.attention import observed_name
from aim_runtime.errors import PatchError
from aim_runtime.generate import with_own_prompt
from aim_runtime.llava import VideoLayout
from aim_runtime.merge import merge_passes
from aim_runtime.prefill import Prefill
from aim_runtime.prompt import Prompt
from aim_runtime.spans import Recorder
from aim_runtime.trace import RunTrace

Args = tuple[Any, ...]
Inputs = dict[str, Any]


class Hooks:
    """Attaches a schedule to a model that has been checked; ``trace`` tells what each run did.

    Args:
        decoder: the language model inside ``model``.
        layout: how videos are written in prompts; None for a bare language model.
        embedded: the prompt that ``inputs_embeds`` hold, if the caller described one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: Qwen2Model,
        schedule: Schedule,
        *,
        layout: VideoLayout | None,
        embedded: Prompt | None,
        recorder: Recorder,
    ) -> None:
        self.trace = RunTrace()
        self._model, self._decoder, self._schedule = model, decoder, schedule
        self._layout, self._embedded, self._recorder = layout, embedded, recorder
        self._undo = ExitStack()
        self._prompt: Prompt | None = None  # from the prepared inputs to the decoder
        self._pooled: tuple[int, ...] = ()  # tokens of a frame, before merging and after each pass
        self._pooled_frames = 0
        self._prefill: Prefill | None = None  # while the decoder runs one

    def attach(self) -> None:
        """Change the model; if that fails, leave it as it was."""
        with self._undo as undo:
            decoder, stock = self._decoder, self._decoder.config._attn_implementation
            undo.callback(decoder.set_attn_implementation, stock)
            decoder.set_attn_implementation(observed_name(stock))
            self._hook(decoder.register_forward_pre_hook, self._begin)
            self._hook(decoder.register_forward_hook, self._finish)
            for layer in decoder.layers:
                self._hook(layer.register_forward_pre_hook, self._enter_layer)
                self._hook(layer.mlp.register_forward_pre_hook, self._enter_mlp)
            if self._layout is not None:
                inner = self._model.model
                generate = with_own_prompt(self._model.generate, self._shorten)
                self._replace(self._model, "generate", generate)
                self._hook(inner.register_forward_pre_hook, self._prepare)
                self._replace(inner, "apply_pooling", self._merging(inner.apply_pooling))
            self._undo = undo.pop_all()

    def detach(self) -> None:
        """Restore the model."""
        self._undo.close()

    def _hook(self, register: Callable[..., Any], hook: Callable[..., Any]) -> None:
        self._undo.callback(register(hook, with_kwargs=True).remove)

    def _replace(self, owner: nn.Module, name: str, value: Callable[..., Any]) -> None:
        if name in vars(owner):  # somebody else has replaced it already
            self._undo.callback(setattr, owner, name, vars(owner)[name])
        else:
            self._undo.callback(delattr, owner, name)
        setattr(owner, name, value)

    def _shorten(self, inputs: Inputs) -> Inputs:
        """Before ``generate``."""
        _require_empty_cache(inputs)
        return self._layout.prepare(inputs)[0]

    def _prepare(self, module: nn.Module, args: Args, kwargs: Inputs) -> tuple[Args, Inputs]:
        """Before the vision-language model: shorten the prompt, note where its video is."""
        inputs = _named(module, args, kwargs)
        self._prompt = None
        if inputs.get("input_ids") is not None and not _cached_tokens(inputs):
            if self._embedded is not None:
                raise PatchError(
                    "visual_mask",
                    expected="inputs_embeds, which it describes",
                    got="input_ids",
                    fix="Patch without visual_mask: placeholders are found in input_ids.",
                )
            inputs, self._prompt = self._layout.prepare(inputs)
        return (), inputs

    def _merging(self, pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def pool_and_merge(features: Tensor) -> Tensor:
            # [frames, patches, hidden] -> [frames, tokens, hidden] -> [frames, kept, hidden]
            passes = [pool(features)]
            if self._schedule.merge is not None:
                with self._recorder.span("merge"):
                    counts = self._schedule.merge.token_counts(passes[0].shape[1])
                    passes += merge_passes(passes[0], counts)
            self._pooled = tuple(x.shape[1] for x in passes)
            self._pooled_frames = features.shape[0]
            return passes[-1]

        return pool_and_merge

    def _begin(self, module: nn.Module, args: Args, kwargs: Inputs) -> tuple[Args, Inputs]:
        """Before the decoder: a prefill starts; a decode step passes untouched."""
        inputs = _named(module, args, kwargs)
        x = inputs.get("inputs_embeds")
        x = inputs["input_ids"] if x is None else x
        video, self._prompt, self._prefill = self._prompt, None, None
        if not (x.shape[1] == 1 and _cached_tokens(inputs)):
            _require_empty_cache(inputs)
            _require_no_padding(inputs.get("attention_mask"))
            prompt, merge_tokens = self._prompt_of(video)
            self._prefill = self._new_prefill(prompt.expand(x.shape[0]), merge_tokens, x)
        return (), inputs

    def _prompt_of(self, video: Prompt | None) -> tuple[Prompt, tuple[int, ...]]:
        """The prompt that enters the decoder, and how its visual tokens were merged."""
        if video is not None:
            if not self._pooled_frames or self._pooled_frames % video.visual.groups:
                raise PatchError(
                    "mm_encoder_outputs",
                    expected="features of this video, made by this patched model",
                    got=f"features of {self._pooled_frames} frames",
                    fix="Pass pixel_values_videos.",
                )
            return video, self._pooled
        if self._embedded is None:
            raise PatchError(
                "inputs_embeds",
                expected="a visual_mask beside them",
                got="none",
                fix="Patch with visual_mask=mask, True at visual tokens.",
            )
        return self._embedded, (self._embedded.visual.group_tokens,)

    def _new_prefill(self, prompt: Prompt, merge_tokens: tuple[int, ...], x: Tensor) -> Prefill:
        if prompt.visual_mask.shape != x.shape[:2]:
            raise PatchError(
                "prompt",
                expected=f"the shape of its visual mask, {list(prompt.visual_mask.shape)}",
                got=list(x.shape[:2]),
                fix="Give whole prompts in one prefill (no prefill_chunk_size), or another mask.",
            )
        plan = self._schedule.resolve_visual(
            prompt.visual,
            text_tokens=prompt.text_tokens,
            layers=len(self._decoder.layers),
            batch=x.shape[0],
        )
        return Prefill(plan, prompt, merge_tokens, device=x.device, recorder=self._recorder)

    def _enter_layer(
        self, module: nn.Module, args: Args, kwargs: Inputs
    ) -> tuple[Args, Inputs] | None:
        if self._prefill is None:
            return None
        hidden_states, kwargs = self._prefill.enter_layer(args[0], kwargs)
        return (hidden_states, *args[1:]), kwargs

    def _enter_mlp(self, module: nn.Module, args: Args, kwargs: Inputs) -> None:
        if self._prefill is not None:
            self._prefill.observe_mlp(args[0])

    def _finish(self, module: nn.Module, args: Args, kwargs: Inputs, output: Any) -> None:
        """After the decoder: write the trace."""
        if self._prefill is None:
            return
        prefill, self._prefill = self._prefill, None
        cache = kwargs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) if cache is None else cache
        layers = range(len(self._decoder.layers)) if cache is not None else ()
        prefill.finish(self.trace, tuple(cache.get_seq_length(layer) for layer in layers))


def _named(module: nn.Module, args: Args, kwargs: Inputs) -> Inputs:
    """A module's arguments by name."""
    names = inspect.signature(module.forward).parameters if args else ()
    return dict(zip(names, args, strict=False)) | kwargs


def _cached_tokens(inputs: Inputs) -> int:
    """Tokens in the first layer of the cache. Raises: PatchError for caches of fixed size."""
    cache = inputs.get("past_key_values")
    if cache is None:
        return 0
    if not isinstance(cache, DynamicCache):
        raise PatchError(
            "past_key_values",
            expected="a DynamicCache, whose layers may differ in length",
            got=type(cache).__name__,
            fix="Leave cache_implementation and past_key_values out.",
        )
    return cache.get_seq_length()


def _require_empty_cache(inputs: Inputs) -> None:
    cached = _cached_tokens(inputs)
    if cached:
        raise PatchError(
            "past_key_values",
            expected="an empty cache, or one new token",
            got=f"several new tokens after {cached} cached ones",
            fix="Give whole prompts in one prefill; assisted decoding is not supported.",
        )


def _require_no_padding(mask: Any) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        got, fix = "another kind of mask", "Leave attention_mask out."
    elif not bool(mask.all()):
        got, fix = "zeros (padding)", "Run prompts of different length one by one."
    else:
        return
    raise PatchError("attention_mask", expected="ones [batch, tokens], or None", got=got, fix=fix)
