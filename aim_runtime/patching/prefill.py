"""One prefill in progress: what is still there, what leaves next, and what was seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.schedules.trace import Ranked, TokenTrace
from aim_runtime.errors import PatchError
from aim_runtime.models.part import Part
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.recorder import Recorder
from aim_runtime.reduction.scores import (
    LAYER_IMPORTANCE,
    PROMPT_NOTES,
    Attended,
    Choice,
    Entering,
    Passed,
)
from aim_runtime.reduction.select import select_tokens, take_tokens
from aim_runtime.reduction.uneven import select_rows
from aim_runtime.trace import RunTrace


@dataclass(frozen=True)
class _Waiting:
    """A layer whose tokens are ranked once it has run: how many stay of each row, and its keys."""

    layer: int
    stay: tuple[int, ...]
    key: Tensor


class Prefill:
    """Drops tokens as ``plans`` say, and records the counts that really occur.

    Args:
        plans: of each row, the resolved schedule. It says how many tokens stay and by which score;
            no count of it is copied into the record.
        prompt: what enters the decoder.
        merge_tokens: of each size of groups, its tokens before merging and after each pass, as they
            occurred.
        selected: of each row what was ranked before it entered, as it occurred; () without select.
        decoder: the language model that runs.
        device: of the decoder's first layer.
    Where all rows hold visual tokens alike, padding is text that stays. Other rows are padded again
    in each layer, up to the longest.
    A layer that is computed again, as gradient checkpointing does, does what it did.
    """

    def __init__(
        self,
        plans: Sequence[TokenTrace],
        prompt: Prompt,
        merge_tokens: Mapping[int, tuple[int, ...]],
        selected: Sequence[tuple[Ranked, ...]] = (),
        *,
        decoder: Part,
        device: torch.device,
        recorder: Recorder,
    ) -> None:
        self.prompt, self.plan = prompt, plans[0]
        self._plans, self._merge_tokens, self._recorder = plans, merge_tokens, recorder
        self._selected = selected or [()] * len(plans)
        self._decoder = decoder
        # of a row that ranks: those of text alone have the plan of no schedule
        names = [plan.importance for plan in plans if plan.scored_layers]
        self._score = LAYER_SCORES[names[0]] if names else None
        self._noted: Tensor | None = None  # what the score noted of the prompt
        self._waiting: _Waiting | None = None
        self._entered: Tensor | None = None  # what a layer whose whole is ranked began with
        self._candidates = tuple(prompt.visual_mask.sum(dim=1).tolist())
        self._padded = (0,) * len(plans)  # tokens of each row that are neither text nor visual
        if prompt.padding is not None and not prompt.is_even:
            self._padded = tuple(prompt.padding.tolist())
        # non-blocking: the vision tower may still be running
        self.visual = prompt.visual_mask.to(device, non_blocking=True)
        padding = prompt.padding
        self._padding = None if padding is None else padding.to(device, non_blocking=True)
        everything = torch.arange(prompt.tokens, device=device)
        self._left = everything.expand(self.visual.shape[0], -1)
        self._whole = True
        self._chosen: dict[int, Tensor] = {}  # of each layer that decided, which of its tokens stay
        self._next: Tensor | None = None  # the last of them, until the others have left
        self._positions: dict[str, Any] | None = {}  # of those left; None where out of date
        self._entries: list[tuple[Tensor | None, dict[str, Any]]] = []  # of each layer
        self._kept: list[Tensor] = []
        self._attention_tokens: list[tuple[int, ...]] = []  # of each layer, in each row
        self._mlp_tokens: list[tuple[int, ...]] = []
        self._scored_layers: list[tuple[int, ...]] = [() for _ in plans]  # of each row
        self.layer_padding: list[Tensor] = []  # [B] of each layer, where rows differ
        self._last_queries: int | None = None

    @property
    def left(self) -> Tensor:
        """The places in the prompt of the tokens that are left, int64 [B, n]."""
        return self._left

    @property
    def is_whole(self) -> bool:
        """Whether no token has left yet."""
        return self._whole

    @property
    def has_candidates(self) -> bool:
        """Whether visual tokens are left in some row."""
        return any(self._candidates)

    def enter_layer(
        self, layer: int, hidden_states: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Drop what the layer before decided, from the hidden states and from the positions.

        ``kwargs`` are the decoder layer's own: its position ids and embeddings are those of the
        whole prompt in every layer.
        """
        if layer == len(self._entries):
            self._decide_between(hidden_states, kwargs)
            self._entries.append((self._leave(), self._entering(kwargs)))
        index, own = self._entries[layer]
        if index is not None:
            hidden_states = take_tokens(hidden_states, index)
        if self._score is not None and self._score.whole_layer:
            self._entered = hidden_states.detach()
        return hidden_states, kwargs | own

    @torch.no_grad()
    def _decide_between(self, hidden_states: Tensor, kwargs: dict[str, Any]) -> None:
        """Before a layer, what its score needs of the prompt, or of the layer before."""
        if not self._entries:
            self._note(hidden_states)
        if self._waiting is not None:
            self._rank_passed(self._waiting, hidden_states, kwargs | (self._positions or {}))

    def _entering(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keywords of a layer that differ from those of the whole prompt."""
        if self._positions is None:
            cos, sin = (take_tokens(x, self._left) for x in kwargs["position_embeddings"])
            self._positions = {"position_embeddings": (cos, sin), "aim_left": True}
            if kwargs.get("position_ids") is not None:
                self._positions["position_ids"] = take_tokens(kwargs["position_ids"], self._left)
            if not self.prompt.is_even:
                self._positions["aim_padding"] = self._padding
        if not self.prompt.is_even:
            none = torch.zeros(len(self._left), dtype=torch.int64, device=self._left.device)
            self.layer_padding.append(none if self._padding is None else self._padding)
        self._kept.append(self._left)
        return self._positions | {"aim_prefill": self}

    @torch.no_grad()
    def observe_attention(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Record a layer's attention; where the plan drops tokens next, choose those that stay.

        Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], both after the rotary embedding. A
        query of the last token alone lets that token stay.
        """
        if layer < len(self._attention_tokens):
            return  # computed again
        now = key.shape[2]
        self._attention_tokens.append(self._real_tokens(now))
        if query.shape[2] < now:
            self._last_queries = query.shape[2]
            self._next = self._chosen[layer] = torch.full_like(self._left[:, -1:], now - 1)
            self._next_padding, self._next_padded = 0 * self._next[:, 0], (0,) * len(self._plans)
            return
        stay = tuple(
            min(count, visual)
            for count, visual in zip(self._candidates, self._targets(layer), strict=True)
        )
        if stay == self._candidates:
            return
        pairs = zip(stay, self._candidates, strict=True)
        ranked = [row for row, (count, now) in enumerate(pairs) if 0 < count < now]
        for row in ranked:
            self._scored_layers[row] += (layer,)
        if not ranked:
            self._choose(layer, stay, None)
            return
        assert self._score is not None
        if self._score.whole_layer:
            self._waiting = _Waiting(layer, stay, key)
            return
        with self._recorder.span("importance"):
            at = Attended(self._choice(stay), query, key, scaling)
            self._choose(layer, stay, LAYER_IMPORTANCE[self._score.name](at))

    def _note(self, embeds: Tensor) -> None:
        """Before the first layer, have the score note what it needs of the prompt."""
        if self._score is None or self._score.name not in PROMPT_NOTES:
            return
        with self._recorder.span("importance"):
            text = max(self.prompt.text_tokens)
            at = Entering(embeds, self.visual, text, self._padding)
            self._noted = PROMPT_NOTES[self._score.name](at)

    def _rank_passed(self, waiting: _Waiting, left: Tensor, kwargs: dict[str, Any]) -> None:
        """Before the next layer: rank by what the last one made of its tokens."""
        assert self._score is not None and self._entered is not None
        self._waiting = None
        with self._recorder.span("importance"):
            at = Passed(
                self._choice(waiting.stay),
                key=waiting.key,
                entered=self._entered,
                left=left,
                following=self._decoder.layers[waiting.layer + 1],
                angles=kwargs["position_embeddings"],
                norm=self._decoder.norm,
            )
            self._choose(waiting.layer, waiting.stay, LAYER_IMPORTANCE[self._score.name](at))

    def _targets(self, layer: int) -> list[int]:
        """Visual tokens of each row that the plan leaves after ``layer``."""
        return [
            min((plan.mlp_tokens[layer], *plan.attention_tokens[layer + 1 : layer + 2]))
            - plan.text_tokens
            for plan in self._plans
        ]

    def _choice(self, stay: tuple[int, ...]) -> Choice:
        """The choice of ``stay`` visual tokens of each row."""
        counts: tuple[int | Tensor, int | Tensor] = (self._candidates[0], stay[0])
        if not self.prompt.is_even:
            now, then = (torch.tensor(n, device="cpu") for n in (self._candidates, stay))
            counts = (now[:, None], then[:, None])
        text = max(self.prompt.text_tokens)
        noted = None if self._noted is None else take_tokens(self._noted, self._left)
        return Choice(self.visual, text, self._padding, *counts, noted)

    def _choose(self, layer: int, stay: tuple[int, ...], scores: Tensor | None) -> None:
        """Decide which tokens go on after ``layer``: ``stay`` visual ones of each row."""
        text = self.prompt.text_tokens
        count = max(map(sum, zip(text, stay, strict=True)))
        self._candidates = stay
        if self.prompt.is_even:
            self._next = self._chosen[layer] = select_tokens(self.visual, count, scores)
            return
        before = self._padded
        self._next_padded = tuple(count - t - s for t, s in zip(text, stay, strict=True))
        host = torch.tensor([before, stay, self._next_padded], device="cpu")
        padding, staying, self._next_padding = host.to(self.visual.device, non_blocking=True)
        index = select_rows(self.visual, padding, staying, count, scores)
        self._next = self._chosen[layer] = index

    def _real_tokens(self, tokens: int) -> tuple[int, ...]:
        """Of each row that has ``tokens``, those that do not only even it out."""
        return tuple(tokens - padded for padded in self._padded)

    def stay(self, layer: int, mixed: Tensor) -> Tensor:
        """Of what attention gives, [B, n, ...], the tokens that ``layer`` has decided to keep."""
        if self._last_queries is not None and mixed.shape[1] == self._last_queries:
            return mixed  # it has answered no others
        return take_tokens(mixed, self._chosen[layer]) if layer in self._chosen else mixed

    def leave(self, layer: int, x: Tensor) -> Tensor:
        """Of x[B, n, ...], the tokens that ``layer`` keeps; from now on the others are gone."""
        self._leave()
        return take_tokens(x, self._chosen[layer]) if layer in self._chosen else x

    def _leave(self) -> Tensor | None:
        """Let go the tokens that were not chosen last; returns those that stay."""
        index, self._next = self._next, None
        if index is None:
            return None
        self._whole = False
        self.visual, self._left = take_tokens(self.visual, index), take_tokens(self._left, index)
        if not self.prompt.is_even:
            self._padding, self._padded = self._next_padding, self._next_padded
            # padding repeats a token that may be visual
            place = torch.arange(index.shape[1], device=index.device)
            self.visual = self.visual & (place >= self._padding[:, None])
        self._positions = None
        return index

    def observe_mlp(self, x: Tensor) -> None:
        """Record a layer's MLP from its input x[B, n, hidden]."""
        self._mlp_tokens.append(self._real_tokens(x.shape[1]))

    def predicted_places(self) -> Tensor:
        """The places in the caller's prompt of what is left, int64 [B, n].

        -1 at padding that evens rows out, and at the token after it, which padding would predict.
        """
        places = self._left
        if self.prompt.cut is not None:
            places = self.prompt.cut.sources.to(places.device).gather(1, places)
        if self.prompt.is_even or self._padding is None:
            return places
        index = torch.arange(places.shape[1], device=places.device)
        return places.masked_fill(index <= self._padding[:, None], -1)

    def finish(self, trace: RunTrace, cache_tokens: tuple[int, ...]) -> None:
        """Write the record. Raises: PatchError when a layer ran without being observed."""
        layers = len(self.plan.attention_tokens)
        if len(self._attention_tokens) != layers:
            raise PatchError(
                "attention implementation",
                expected=f"{layers} layers under the patch",
                got=len(self._attention_tokens),
                fix="Do not change the model's attention implementation while it is patched.",
            )
        rows = [self._row(number) for number in range(len(self._plans))]
        trace.record(rows, [*self._kept, self._left], cache_tokens)

    def _row(self, number: int) -> TokenTrace:
        """The counts of one row, as they occurred."""
        plan, visual = self._plans[number], self.prompt.visual[number]
        text = self.prompt.text_tokens[number]

        def merged(tokens: int) -> tuple[int, ...]:
            return self._merge_tokens.get(tokens, (tokens,))

        others = tuple((groups, merged(tokens)) for groups, tokens in visual.others)
        sizes = ((visual.groups, merged(visual.group_tokens)), *others)
        entered = self._attention_tokens[0][number] - text
        selected = self._selected[number]
        sent = sum(groups * counts[-1] for groups, counts in sizes)
        if selected:
            sent = sum(part.sets * part.kept for part in selected)
        return TokenTrace(
            batch=1,
            groups=visual.groups,
            merge_tokens=sizes[0][1],
            newline_tokens=entered - sent,
            text_tokens=text,
            attention_tokens=tuple(layer[number] for layer in self._attention_tokens),
            mlp_tokens=tuple(layer[number] for layer in self._mlp_tokens),
            scored_layers=self._scored_layers[number],
            selected=selected,
            merged_by=plan.merged_by,
            selected_by=plan.selected_by,
            importance=plan.importance,
            last_queries=self._last_queries,
            others=others,
        )
