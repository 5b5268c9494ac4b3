"""The hooks of one patched model, in the order in which they run, and what passes between them."""

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import TokenTrace
from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import require_uncompiled, uncompiled
from aim_runtime.models.part import Part
from aim_runtime.patching.attention import observed_name
from aim_runtime.patching.encoding import Encoding
from aim_runtime.patching.generate import with_own_prompt
from aim_runtime.patching.last_layer import of_last_token, wants_last_token_alone
from aim_runtime.patching.layer import leaving_after_attention
from aim_runtime.patching.prefill import Prefill
from aim_runtime.patching.prompt_lookup import behind_the_prompt
from aim_runtime.patching.tower import TowerMerging
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.axes import Axes
from aim_runtime.prompts.cached import (
    Cached,
    cached_tokens,
    require_empty_cache,
    unknown_cache,
)
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.layout import Layout
from aim_runtime.prompts.positions import (
    positions_behind,
    unmerged_places,
    unmerged_positions,
    with_positions,
)
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.recorder import Recorder
from aim_runtime.seams import cache_in, cache_of, named
from aim_runtime.trace import RunTrace

Args = tuple[Any, ...]
Inputs = dict[str, Any]


class Hooks:
    """Attaches a schedule to a model that has been checked; ``trace`` tells what each run did.

    Args:
        decoder: the language model inside ``model``.
        adapter: of a vision-language model; None for a bare language model.
        embedded: the prompt that ``inputs_embeds`` hold, if the caller described one.
        last_layer: a name of LAST_LAYERS.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: Part,
        schedule: Schedule,
        *,
        adapter: Adapter | None,
        embedded: Prompt | None,
        recorder: Recorder,
        last_layer: str,
    ) -> None:
        self.trace = RunTrace()
        self._model: Part = model
        self._decoder, self._schedule = decoder, schedule
        self._embedded, self._recorder = embedded, recorder
        self._changes = Changes()
        merge, has_axes = schedule.merge, adapter is not None and adapter.has_axes
        self._keeps_positions = not has_axes and merge is not None and merge.positions == "kept"
        self._keeps_places = self._keeps_positions or (has_axes and merge is not None)
        self._adapter = adapter
        self._encodings: dict[str, Encoding] = {}
        self._axes: Axes | None = None
        if adapter is not None:
            self._layout = Layout(adapter, merge)
            self._axes = Axes(adapter) if has_axes else None
            self._encodings = {
                name: Encoding(merge, recorder, adapter, name, keeps_places=self._keeps_places)
                for name in adapter.pixel_inputs
            }
        self._prompt: Prompt | None = None  # from the prepared inputs to the decoder
        self._ready: Inputs = {}  # likewise, the features that came with them
        self._prefill: Prefill | None = None  # while the decoder runs one
        self._layer_padding: list[Tensor] = []  # while it goes on behind a cached prompt
        self._cached: WeakKeyDictionary[DynamicCache, Cached] = WeakKeyDictionary()
        self._last_layer = last_layer
        self._last_alone = False  # while a call runs that wants its last token alone

    def attach(self) -> None:
        """Change the model; if that fails, leave it as it was."""
        with self._changes as changes:
            decoder, stock = self._decoder, self._decoder.config._attn_implementation
            changes.callback(decoder.set_attn_implementation, stock)
            decoder.set_attn_implementation(observed_name(stock))
            changes.replace(decoder, "forward", uncompiled(decoder.forward))
            changes.hook(decoder.register_forward_pre_hook, uncompiled(self._begin))
            changes.hook(decoder.register_forward_hook, uncompiled(self._finish))
            for layer in decoder.layers:
                changes.hook(layer.register_forward_pre_hook, self._enter_layer)
                changes.hook(layer.mlp.register_forward_pre_hook, self._enter_mlp)
                if self._schedule.prune and self._schedule.prune.drop_point == "after_attention":
                    project = layer.self_attn.o_proj
                    changes.hook(project.register_forward_pre_hook, self._leave_attention)
                    changes.replace(layer, "forward", leaving_after_attention(layer))
            if self._last_layer == "needed":
                model, last = self._model, decoder.layers[-1]
                changes.hook(model.register_forward_pre_hook, uncompiled(self._asked))
                register = partial(model.register_forward_hook, always_call=True)
                changes.hook(register, uncompiled(self._answered))
                changes.replace(last, "forward", of_last_token(last))
            if self._adapter is not None:
                self._attach_to_vision(self._adapter, changes)
            self._changes = changes.pop_all()

    def _attach_to_vision(self, adapter: Adapter, changes: Changes) -> None:
        inner = adapter.inner
        if self._schedule.vision_merge is not None:
            tower = TowerMerging(adapter, self._schedule.vision_merge, self.trace)
            tower.attach(changes)
        generate = with_own_prompt(self._model, self._shorten, self._forget)
        changes.replace(self._model, "generate", generate)
        make, placeholders = self._model._get_candidate_generator, adapter.placeholders.values()
        lookup = behind_the_prompt(make, placeholders)
        changes.replace(self._model, "_get_candidate_generator", lookup)
        changes.hook(inner.register_forward_pre_hook, uncompiled(self._prepare))
        for modality, encoding in self._encodings.items():
            name = f"get_{modality}_features"
            encode = uncompiled(encoding.behind(getattr(inner, name)), recursive=False)
            changes.replace(inner, name, encode)
        if self._axes is not None:
            changes.callback(setattr, inner, "rope_deltas", inner.rope_deltas)
            rope_index = uncompiled(self._axes.behind(inner.get_rope_index))
            changes.replace(inner, "get_rope_index", rope_index)

    def detach(self) -> None:
        """Restore the model."""
        self._changes.close()

    def _asked(self, module: Part, args: Args, kwargs: Inputs) -> None:
        """Before the whole model: what is wanted of it."""
        inputs = named(module, args, kwargs)
        configs = (module.config, self._decoder.config)
        self._last_alone = wants_last_token_alone(inputs, *configs)

    def _answered(self, module: nn.Module, args: Args, kwargs: Inputs, output: Any) -> None:
        """After it, even if it failed."""
        self._last_alone = False

    def _shorten(self, inputs: Inputs) -> Inputs:
        """Before ``generate``: the prompt as the LLM will see it."""
        if not cached_tokens(inputs):
            short = self._layout.prepare(inputs)
            if self._axes is not None:
                self._axes.expect(short.prompt, inputs)
        else:
            earlier = self._cached.get(cache_in(inputs))
            if earlier is None:
                raise unknown_cache(cached_tokens(inputs))
            short = self._layout.prepare_follow_up(inputs, earlier.prompt)
            if self._axes is not None:
                self._axes.deltas = earlier.deltas
        if not self._moves(short.prompt):
            return short.inputs
        # generate counts on from the last of these; those of visual tokens are set when merged
        prompt = short.prompt.padded(short.inputs.get("attention_mask"))
        positions = unmerged_positions(prompt, {})
        return short.inputs | {"position_ids": positions.to(short.inputs["input_ids"].device)}

    def _forget(self) -> None:
        """After ``generate``: what it computed ahead serves no other prompt."""
        if self._axes is not None:
            self._axes.forget()

    def _moves(self, prompt: Prompt) -> bool:
        """Whether tokens have other positions than their places in the merged prompt."""
        return self._keeps_positions and any(prompt.lost)

    def _prepare(self, module: nn.Module, args: Args, kwargs: Inputs) -> tuple[Args, Inputs]:
        """Before the vision-language model: shorten the prompt, note where its pixels go."""
        inputs = named(module, args, kwargs)
        self._prompt, self._ready = None, {}
        if inputs.get("input_ids") is None:
            return (), inputs
        if cached_tokens(inputs):
            several = inputs["input_ids"].shape[1] > 1
            if several and self._layout.has_visual_tokens(inputs):
                require_empty_cache(inputs)
            cached = self._cached.get(cache_in(inputs))
            if self._axes is not None and inputs.get("position_ids") is None:
                if cached is None and self._schedule.merge is not None:
                    require_empty_cache(inputs)
                inputs = self._axes.go_on(inputs, cached) if cached else inputs
            return (), inputs
        if self._embedded is not None:
            raise PatchError(
                "visual_mask",
                expected="inputs_embeds, which it describes",
                got="input_ids",
                fix="Patch without visual_mask: placeholders are found in input_ids.",
            )
        short = self._layout.prepare(inputs, self._last_encoded())
        if self._axes is not None and inputs.get("position_ids") is None:
            self._axes.expect(short.prompt, inputs)
        self._prompt = short.prompt
        self._ready = dict(inputs.get("mm_encoder_outputs") or {})
        return (), short.inputs

    def _last_encoded(self) -> dict[str, Encoded]:
        last = {modality: encoding.last for modality, encoding in self._encodings.items()}
        return {modality: encoded for modality, encoded in last.items() if encoded is not None}

    def _begin(self, module: nn.Module, args: Args, kwargs: Inputs) -> tuple[Args, Inputs]:
        """Before the decoder: a prefill starts; what follows a cached one passes."""
        inputs = named(module, args, kwargs)
        x = inputs.get("inputs_embeds")
        x = inputs["input_ids"] if x is None else x
        prompt, self._prompt, self._prefill = self._prompt, None, None
        self._layer_padding = []
        if cached_tokens(inputs):
            return (), self._continue(inputs, x)
        require_uncompiled(self._decoder)
        prompt = self._entering(prompt)
        if prompt.visual_mask.shape[1] != x.shape[1] or x.shape[0] % len(prompt.visual_mask):
            raise PatchError(
                "prompt",
                expected=f"the shape of its visual mask, {list(prompt.visual_mask.shape)}",
                got=list(x.shape[:2]),
                fix="Give whole prompts in one prefill (no prefill_chunk_size), or another mask.",
            )
        prompt = prompt.expand(x.shape[0]).padded(inputs.get("attention_mask"))
        encoded = self._encoded(prompt)
        if self._moves(prompt):
            positions = unmerged_positions(prompt, encoded)
            inputs = with_positions(inputs, positions, text=~prompt.visual_mask)
        elif self._axes is not None and any(prompt.lost):
            inputs = self._axes.look_up(inputs, prompt, unmerged_places(prompt, encoded))
        counts = {n: c for one in encoded.values() for n, c in one.counts.items()}
        self._prefill = Prefill(
            self._plans(prompt),
            prompt,
            counts,
            decoder=self._decoder,
            device=x.device,
            recorder=self._recorder,
        )
        return (), inputs

    def _continue(self, inputs: Inputs, x: Tensor) -> Inputs:
        """New tokens behind a cached prompt: text, which every layer keeps."""
        cached = self._cached.get(cache_in(inputs))
        counted = inputs.get("position_ids") is not None
        if cached is None and self._keeps_positions and not counted:
            require_empty_cache(inputs)
        if x.shape[1] > 1 and (cached is None or self._embedded is not None):
            require_empty_cache(inputs)
        if cached is None:
            return inputs
        self._layer_padding = cached.padding
        prompt = cached.prompt
        if counted or not self._moves(prompt):
            return inputs
        lost = torch.tensor(prompt.lost, device=x.device)[:, None]
        positions = positions_behind(cached_tokens(inputs), x.shape[1], prompt, lost)
        return inputs | {"position_ids": positions}

    def _entering(self, prompt: Prompt | None) -> Prompt:
        """The prompt that enters the decoder."""
        prompt = self._embedded if prompt is None else prompt
        if prompt is None:
            raise PatchError(
                "inputs_embeds",
                expected="a visual_mask beside them",
                got="none",
                fix="Patch with visual_mask=mask, True at visual tokens.",
            )
        return prompt

    def _encoded(self, prompt: Prompt) -> dict[str, Encoded]:
        """Of each modality in ``prompt`` what was encoded for it. Raises: PatchError."""
        last, ready = self._last_encoded(), self._ready
        self._ready = {}
        for modality, features in ready.items():
            if features is not None and self._keeps_places:
                last[modality].require(features.pooler_output, prompt.numbers(modality))
        placed = {one.modality for row in prompt.placed for one in row}
        return {modality: last[modality] for modality in placed}

    def _plans(self, prompt: Prompt) -> list[TokenTrace]:
        """What the schedule makes of each row; text alone is not reduced."""
        rows = list(zip(prompt.visual, prompt.text_tokens, strict=True))
        plans = {
            (visual, text): (self._schedule if visual.groups else Schedule()).resolve_visual(
                visual, text_tokens=text, layers=len(self._decoder.layers)
            )
            for visual, text in set(rows)
        }
        if self._last_alone:
            plans = {row: plan.last_needed() for row, plan in plans.items()}
        return [plans[row] for row in rows]

    def _enter_layer(self, module: Part, args: Args, kwargs: Inputs) -> tuple[Args, Inputs] | None:
        if self._layer_padding:
            own = self._layer_padding[module.self_attn.layer_idx]
            return args, kwargs | {"aim_padding": own}
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
        self._layer_padding = []
        if self._prefill is None:
            return
        prefill, self._prefill = self._prefill, None
        cache = cache_in(kwargs)
        cache = cache_of(output) if cache is None else cache
        layers = range(len(self._decoder.layers)) if cache is not None else ()
        prefill.finish(self.trace, tuple(cache.get_seq_length(layer) for layer in layers))
        if cache is not None:
            rows = len(prefill.prompt.visual)
            deltas = None if self._axes is None else self._axes.deltas_of(rows)
            self._cached[cache] = Cached(prefill.prompt, prefill.layer_padding, deltas)
