"""TokenDropping: lets tokens leave between and inside the decoder's layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from aim_cost.errors import AimError
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import Ranked, TokenTrace
from aim_runtime.errors import PatchError
from aim_runtime.models.compiled import require_uncompiled, uncompiled
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.part import Part
from aim_runtime.patching.attention import observed_name
from aim_runtime.patching.current import Current
from aim_runtime.patching.deepstack import DeepStack
from aim_runtime.patching.last_layer import LastTokenAlone
from aim_runtime.patching.layer import leaving_after_attention
from aim_runtime.patching.logits import CallerLogits
from aim_runtime.patching.position_keeping import PositionKeeping
from aim_runtime.patching.prefill import Prefill
from aim_runtime.patching.prompt_shortening import NewIds, PromptShortening
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.cache_checks import cached_tokens, require_empty_cache, require_layers
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.entering import Entering
from aim_runtime.prompts.prompt import (
    Placed,
    Prompt,
    check_follow_up_mask,
    undescribed_embeddings,
)
from aim_runtime.prompts.prompt_layer import growing
from aim_runtime.recorder import Recorder
from aim_runtime.seams import cache_in, cache_of, has_deepstack, named
from aim_runtime.trace import RunTrace

Args = tuple[Any, ...]


@dataclass(frozen=True)
class FollowUp:
    """A run of the decoder after a cached prompt.

    Args:
        cache: that goes on.
        padding: [B] of each layer; () without any.
        ids: int64 [B, n] of the new tokens, -1 where they are not known.
    """

    cache: DynamicCache
    padding: list[Tensor]
    ids: Tensor


Run = Prefill | FollowUp


class TokenDropping:
    """Runs the decoder under ``schedule``, and writes ``trace`` after each prefill.

    Args:
        reduces: whether the schedule does anything; if not, runs are only observed, and one that
            cannot be is no error.
        prompts: where the prompts of ids come from; None for a bare language model.
        embedded: the prompt that ``inputs_embeds`` hold, if the caller described one.
        last: what calls want of the last layer; None where it computes every token.
    """

    def __init__(
        self,
        decoder: Part,
        schedule: Schedule,
        *,
        reduces: bool,
        prompts: PromptShortening | None,
        embedded: Prompt | None,
        positions: PositionKeeping,
        last: LastTokenAlone | None,
        logits: CallerLogits | None,
        recorder: Recorder,
        trace: RunTrace,
    ) -> None:
        self._decoder, self._schedule, self._reduces = decoder, schedule, reduces
        self._prompts, self._embedded, self._positions = prompts, embedded, positions
        self._last, self._logits = last, logits
        self._recorder, self._trace = recorder, trace
        self._run: Current[Run] = Current()
        self._deepstack = DeepStack(decoder, self._run) if has_deepstack(decoder) else None

    def attach(self, changes: Changes) -> None:
        """Change the decoder and its layers."""
        decoder, stock = self._decoder, self._decoder.config._attn_implementation
        changes.callback(decoder.set_attn_implementation, stock)
        decoder.set_attn_implementation(observed_name(stock))
        changes.replace(decoder, "forward", self._scoped(decoder.forward))
        changes.hook(decoder.register_forward_pre_hook, uncompiled(self._begin))
        changes.hook(decoder.register_forward_hook, uncompiled(self._finish))
        if self._deepstack is not None:
            self._deepstack.attach(changes)
        for layer in decoder.layers:
            changes.hook(layer.register_forward_pre_hook, self._enter_layer)
            changes.hook(layer.mlp.register_forward_pre_hook, self._enter_mlp)
            if self._schedule.prune and self._schedule.prune.drop_point == "after_attention":
                project = layer.self_attn.o_proj
                leave = partial(self._leave_attention, layer=layer.self_attn.layer_idx)
                changes.hook(project.register_forward_pre_hook, leave)
                changes.replace(layer, "forward", leaving_after_attention(layer, self._run))

    def _begin(self, module: nn.Module, args: Args, kwargs: Inputs) -> tuple[Args, Inputs]:
        """Before the decoder: decide whether a prefill starts or new text follows one."""
        inputs = named(module, args, kwargs)
        try:
            run, inputs = self._starting(inputs)
        except AimError as error:
            if self._reduces:
                raise
            self._trace.miss(error)
            return args, kwargs
        return (), inputs | {"aim_run": run}

    def _starting(self, inputs: Inputs) -> tuple[Run | None, Inputs]:
        """The run that starts, and the decoder's inputs for it. Raises: AimError."""
        x = inputs.get("inputs_embeds")
        x = inputs["input_ids"] if x is None else x
        entering = None if self._prompts is None else self._prompts.take()
        if not cached_tokens(inputs):
            require_uncompiled(self._decoder)
            return self._prefill(entering, inputs, x)
        if not self._reduces:
            return None, inputs
        return self._follow_up(entering, inputs, x)

    def _follow_up(
        self, entering: Entering | NewIds | None, inputs: Inputs, x: Tensor
    ) -> tuple[FollowUp, Inputs]:
        """New text x[B, n, ...] after a cached prompt, and its inputs. Raises: PatchError."""
        tokens, cached = x.shape[1], self._positions.cached(inputs)
        ids = entering.ids if isinstance(entering, NewIds) else None
        if cached is None and ids is None and tokens > 1:
            require_empty_cache(inputs)  # they might be visual
        if inputs.get("position_ids") is None:
            inputs = self._positions.of_new_tokens(inputs, tokens)
        padding: list[Tensor] = []
        if cached is not None:
            require_layers(cached, len(self._decoder.layers))
            check_follow_up_mask(inputs.get("attention_mask"), cached.prompt)
            padding = cached.padding
        if ids is None:
            ids = torch.full((len(x), tokens), -1, device=x.device)
        return FollowUp(cache_in(inputs), padding, ids), inputs

    def _prefill(
        self, entering: Entering | NewIds | None, inputs: Inputs, x: Tensor
    ) -> tuple[Prefill, Inputs]:
        """A prefill of x[B, n, ...], and the decoder's inputs for it. Raises: AimError."""
        entering = entering if isinstance(entering, Entering) else None
        prompt = self._embedded if entering is None else entering.prompt
        if prompt is None:
            raise undescribed_embeddings()
        if prompt.visual_mask.shape[1] != x.shape[1] or x.shape[0] % len(prompt.visual_mask):
            raise PatchError(
                "prompt",
                expected=f"the shape of its visual mask, {list(prompt.visual_mask.shape)}",
                got=list(x.shape[:2]),
                fix="Give whole prompts in one prefill (no prefill_chunk_size), or another mask.",
            )
        if inputs.get("is_causal") is False:
            raise PatchError(
                "is_causal",
                expected="True: scores count what each token sees of those before it",
                got=False,
                fix="Leave it out.",
            )
        prompt = prompt.expand(x.shape[0]).padded(inputs.get("attention_mask"))
        encoded = {}
        if entering is not None:
            encoded = entering.encoded
            inputs = self._positions.of_prefill(inputs, prompt, encoded, entering.positions)
        counts = {n: c for one in encoded.values() for n, c in one.counts.items()}
        plans = self._plans(prompt)
        prefill = Prefill(
            plans,
            prompt,
            counts,
            [_selected(row, encoded) for row in prompt.placed],
            decoder=self._decoder,
            device=x.device,
            recorder=self._recorder,
        )
        return prefill, inputs

    def _plans(self, prompt: Prompt) -> list[TokenTrace]:
        """What the schedule makes of each row; text alone is not reduced."""
        rows = list(zip(prompt.visual, prompt.text_tokens, strict=True))
        plans = {
            (visual, text): (self._schedule if visual.groups else Schedule()).resolve_visual(
                visual, text_tokens=text, layers=len(self._decoder.layers)
            )
            for visual, text in set(rows)
        }
        if self._last is not None and self._last.is_wanted:
            plans = {row: plan.last_needed() for row, plan in plans.items()}
        return [plans[row] for row in rows]

    def _scoped(self, own: Any) -> Any:
        """The decoder's forward, whose layers find the run that ``_begin`` has prepared."""

        @wraps(own, updated=())
        def forward(*args: Any, aim_run: Run | None = None, **kwargs: Any) -> Any:
            if aim_run is None:
                return own(*args, **kwargs)
            with self._run.during(aim_run):
                if isinstance(aim_run, FollowUp):
                    with growing(aim_run.cache, aim_run.ids):
                        return own(*args, aim_run=aim_run, **kwargs)
                return own(*args, aim_run=aim_run, **kwargs)

        return uncompiled(forward)

    def _enter_layer(self, module: Part, args: Args, kwargs: Inputs) -> tuple[Args, Inputs] | None:
        """Before a layer; when it is computed again too, as gradient checkpointing does."""
        if "aim_run" not in kwargs:
            return None
        kwargs, layer = dict(kwargs), module.self_attn.layer_idx
        run: Run = kwargs.pop("aim_run")
        if isinstance(run, Prefill):
            hidden_states, kwargs = run.enter_layer(layer, args[0], kwargs)
            return (hidden_states, *args[1:]), kwargs
        own = {"aim_padding": run.padding[layer]} if run.padding else {}
        return args, kwargs | own | {"aim_left": True}

    def _leave_attention(self, module: nn.Module, args: Args, kwargs: Inputs, *, layer: int) -> Any:
        """Before the output projection, where tokens leave inside a layer."""
        run = self._run.value
        if not isinstance(run, Prefill):
            return None
        return (run.stay(layer, args[0]), *args[1:]), kwargs

    def _enter_mlp(self, module: nn.Module, args: Args, kwargs: Inputs) -> None:
        run = self._run.value
        if isinstance(run, Prefill):
            run.observe_mlp(args[0])

    def _finish(self, module: nn.Module, args: Args, kwargs: Inputs, output: Any) -> None:
        """After the decoder: write the trace, and know the prompt in its cache."""
        prefill = kwargs.get("aim_run")
        if not isinstance(prefill, Prefill):
            return
        cache = cache_in(kwargs)
        cache = cache_of(output) if cache is None else cache
        # gradient checkpointing leaves it empty
        filled = cache is not None and cache.get_seq_length() > 0
        layers = range(len(self._decoder.layers)) if filled else ()
        try:
            prefill.finish(self._trace, tuple(cache.get_seq_length(layer) for layer in layers))
        except AimError as error:
            if self._reduces:
                raise
            self._trace.miss(error)
        if not self._reduces:
            return
        if self._logits is not None:
            self._logits.leave(prefill.predicted_places())
        if filled:
            positions = kwargs.get("position_ids")
            self._positions.remember(cache, prefill.prompt, prefill.layer_padding, positions)


def _selected(row: Sequence[Placed], encoded: Mapping[str, Encoded]) -> tuple[Ranked, ...]:
    """What select ranked of the images and videos of a row, in their order."""
    found: tuple[Ranked, ...] = ()
    for placed in row:
        selected = encoded[placed.modality].selected
        found += selected[placed.number] if selected else ()
    return found
