"""The hooks of one patched model, in the order in which they run, and what passes between them."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, Qwen2Model

from aim_cost.schedule import Schedule
from aim_runtime.attention import observed_name
from aim_runtime.cached import cached_tokens, require_empty_cache
from aim_runtime.encoding import Encoding, features_of_another_run
from aim_runtime.errors import PatchError
from aim_runtime.generate import with_own_prompt
from aim_runtime.layer import leaving_after_attention
from aim_runtime.llava import Layout
from aim_runtime.positions import unmerged_positions, with_positions
from aim_runtime.prefill import Prefill
from aim_runtime.prompt import Prompt
from aim_runtime.spans import Recorder
from aim_runtime.trace import RunTrace
from aim_runtime.vision_merge import TowerMerging

Args = tuple[Any, ...]
Inputs = dict[str, Any]


class Hooks:
    """Attaches a schedule to a model that has been checked; ``trace`` tells what each run did.

    Args:
        decoder: the language model inside ``model``.
        layout: how visual tokens are written in prompts; None for a bare language model.
        embedded: the prompt that ``inputs_embeds`` hold, if the caller described one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: Qwen2Model,
        schedule: Schedule,
        *,
        layout: Layout | None,
        embedded: Prompt | None,
        recorder: Recorder,
    ) -> None:
        self.trace = RunTrace()
        self._model, self._decoder, self._schedule = model, decoder, schedule
        self._layout, self._embedded, self._recorder = layout, embedded, recorder
        self._undo = ExitStack()
        self._encoding = Encoding(schedule.merge, recorder)
        self._keeps_positions = bool(schedule.merge and schedule.merge.positions == "kept")
        self._prompt: Prompt | None = None  # from the prepared inputs to the decoder
        self._ready: Tensor | None = None  # likewise, the video features that came with them
        self._prefill: Prefill | None = None  # while the decoder runs one
        self._cached: WeakKeyDictionary[DynamicCache, Prompt] = WeakKeyDictionary()

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
                if self._schedule.prune and self._schedule.prune.drop_point == "after_attention":
                    project = layer.self_attn.o_proj
                    self._hook(project.register_forward_pre_hook, self._leave_attention)
                    self._replace(layer, "forward", leaving_after_attention(layer))
            if self._layout is not None:
                inner = self._model.model
                if self._schedule.vision_merge is not None:
                    tower = TowerMerging(inner, self._schedule.vision_merge, self.trace)
                    tower.attach(self._hook, self._replace)
                generate = with_own_prompt(self._model, self._shorten)
                self._replace(self._model, "generate", generate)
                self._hook(inner.register_forward_pre_hook, self._prepare)
                self._replace(inner, "apply_pooling", self._encoding.behind(inner.apply_pooling))
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
        """Before ``generate``: the prompt as the LLM will see it."""
        if not cached_tokens(inputs):
            short = self._layout.prepare(inputs)
        else:
            earlier = self._cached.get(inputs["past_key_values"])
            if earlier is None:
                require_empty_cache(inputs)
            short = self._layout.prepare_follow_up(inputs, earlier.visual)
        if not self._moves(short.prompt):
            return short.inputs
        # generate counts on from the last of these; those of visual tokens are set when merged
        prompt = short.prompt.padded(short.inputs.get("attention_mask"))
        rows, visual = len(prompt.visual_mask), prompt.visual
        tokens = self._layout.merge_tokens[-1]
        positions = unmerged_positions(prompt, torch.zeros(rows * visual.groups, tokens).long())
        return short.inputs | {"position_ids": positions.to(short.inputs["input_ids"].device)}

    def _moves(self, prompt: Prompt) -> bool:
        """Whether tokens have other positions than their places in the merged prompt."""
        return self._keeps_positions and prompt.visual.newline_tokens > 0

    def _prepare(self, module: nn.Module, args: Args, kwargs: Inputs) -> tuple[Args, Inputs]:
        """Before the vision-language model: shorten the prompt, note where its video is."""
        inputs = _named(module, args, kwargs)
        self._prompt = self._ready = None
        if inputs.get("input_ids") is None:
            return (), inputs
        if cached_tokens(inputs):
            several = inputs["input_ids"].shape[1] > 1
            if several and self._layout.has_visual_tokens(inputs):
                require_empty_cache(inputs)
            return (), inputs
        if self._embedded is not None:
            raise PatchError(
                "visual_mask",
                expected="inputs_embeds, which it describes",
                got="input_ids",
                fix="Patch without visual_mask: placeholders are found in input_ids.",
            )
        short = self._layout.prepare(inputs)
        self._prompt = short.prompt
        ready = (inputs.get("mm_encoder_outputs") or {}).get("video")
        self._ready = None if ready is None else ready.pooler_output
        return (), short.inputs

    def _begin(self, module: nn.Module, args: Args, kwargs: Inputs) -> tuple[Args, Inputs]:
        """Before the decoder: a prefill starts; what follows a cached one passes."""
        inputs = _named(module, args, kwargs)
        x = inputs.get("inputs_embeds")
        x = inputs["input_ids"] if x is None else x
        prompt, ready = self._prompt, self._ready
        self._prompt = self._ready = self._prefill = None
        if cached_tokens(inputs):
            return (), self._continue(inputs, x)
        prompt, merge_tokens = self._entering(prompt)
        if prompt.visual_mask.shape[1] != x.shape[1] or x.shape[0] % len(prompt.visual_mask):
            raise PatchError(
                "prompt",
                expected=f"the shape of its visual mask, {list(prompt.visual_mask.shape)}",
                got=list(x.shape[:2]),
                fix="Give whole prompts in one prefill (no prefill_chunk_size), or another mask.",
            )
        prompt = prompt.expand(x.shape[0]).padded(inputs.get("attention_mask"))
        if self._moves(prompt):
            positions = unmerged_positions(prompt, self._encoding.last.places_in(prompt, ready))
            inputs = with_positions(inputs, positions, text=~prompt.visual_mask)
        self._prefill = self._new_prefill(prompt, merge_tokens, x.device)
        return (), inputs

    def _continue(self, inputs: Inputs, x: Tensor) -> Inputs:
        """New tokens behind a cached prompt: text, which every layer keeps."""
        prompt = self._cached.get(inputs["past_key_values"])
        counted = inputs.get("position_ids") is not None
        if prompt is None and self._keeps_positions and not counted:
            require_empty_cache(inputs)
        if x.shape[1] > 1 and (prompt is None or self._embedded is not None):
            require_empty_cache(inputs)
        if prompt is None or counted or not self._moves(prompt):
            return inputs
        visual = prompt.visual
        lost = visual.groups * (visual.group_tokens - self._layout.merge_tokens[-1])
        positions = torch.arange(x.shape[1], device=x.device) + (cached_tokens(inputs) + lost)
        padding = prompt.padding
        before = 0 if padding is None else padding.to(x.device)[:, None]
        return inputs | {"position_ids": positions[None] - before}

    def _entering(self, prompt: Prompt | None) -> tuple[Prompt, tuple[int, ...]]:
        """The prompt that enters the decoder, and how its visual tokens were merged."""
        if prompt is None:
            prompt = self._embedded
        if prompt is None:
            raise PatchError(
                "inputs_embeds",
                expected="a visual_mask beside them",
                got="none",
                fix="Patch with visual_mask=mask, True at visual tokens.",
            )
        if not prompt.visual.newline_tokens:
            return prompt, (prompt.visual.group_tokens,)
        encoded = self._encoding.last
        frames = 0 if encoded is None else encoded.frames
        if not frames or frames % prompt.visual.groups:
            raise features_of_another_run(f"features of {frames} frames")
        return prompt, encoded.merge_tokens

    def _new_prefill(
        self, prompt: Prompt, merge_tokens: tuple[int, ...], device: torch.device
    ) -> Prefill:
        # text alone is not reduced
        schedule = self._schedule if prompt.visual.groups else Schedule()
        plan = schedule.resolve_visual(
            prompt.visual,
            text_tokens=prompt.text_tokens,
            layers=len(self._decoder.layers),
            batch=len(prompt.visual_mask),
        )
        return Prefill(plan, prompt, merge_tokens, device=device, recorder=self._recorder)

    def _enter_layer(
        self, module: nn.Module, args: Args, kwargs: Inputs
    ) -> tuple[Args, Inputs] | None:
        if self._prefill is None:
            return None
        hidden_states, kwargs = self._prefill.enter_layer(args[0], kwargs)
        return (hidden_states, *args[1:]), kwargs

    def _leave_attention(self, module: nn.Module, args: Args, kwargs: Inputs) -> Any:
        """Before the output projection, where tokens leave inside a layer."""
        if self._prefill is None:
            return None
        return (self._prefill.stay(args[0]), *args[1:]), kwargs

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
        if cache is not None:
            self._cached[cache] = prefill.prompt


def _named(module: nn.Module, args: Args, kwargs: Inputs) -> Inputs:
    """A module's arguments by name."""
    names = inspect.signature(module.forward).parameters if args else ()
    return dict(zip(names, args, strict=False)) | kwargs
