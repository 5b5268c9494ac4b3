"""One prefill in progress: what is still there, what leaves next, and what was seen."""

from typing import Any

import torch
from torch import Tensor

from aim_cost.trace import TokenTrace
from aim_runtime.errors import PatchError
from aim_runtime.prompt import Prompt
from aim_runtime.prune import select_tokens, take_tokens
from aim_runtime.ranking import LAYER_IMPORTANCE, Attended
from aim_runtime.spans import Recorder
from aim_runtime.trace import RunTrace


class Prefill:
    """Drops tokens as ``plan`` says, and records the counts that really occur.

    Args:
        plan: the resolved schedule. It says how many tokens stay and by which score; no count of
            it is copied into the record.
        prompt: what enters the decoder.
        merge_tokens: tokens of a group before merging and after each pass, as they occurred.
        device: of the decoder's first layer.
    """

    def __init__(
        self,
        plan: TokenTrace,
        prompt: Prompt,
        merge_tokens: tuple[int, ...],
        *,
        device: torch.device,
        recorder: Recorder,
    ) -> None:
        self.prompt = prompt
        self.plan, self._merge_tokens, self._recorder = plan, merge_tokens, recorder
        # non-blocking: the vision tower may still be running
        self.visual = prompt.visual_mask.to(device, non_blocking=True)
        padding = prompt.padding
        self._padding = None if padding is None else padding.to(device, non_blocking=True)
        everything = torch.arange(prompt.tokens, device=device)
        self._left = everything.expand(self.visual.shape[0], -1)
        self._next: Tensor | None = None  # which of those left stay, once a layer has decided
        self._positions: dict[str, Any] | None = {}  # of those left; None where out of date
        self._kept: list[Tensor] = []
        self._attention_tokens: list[int] = []
        self._mlp_tokens: list[int] = []
        self._scored_layers: list[int] = []
        self._last_queries: int | None = None

    def enter_layer(
        self, hidden_states: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Drop what the layer before decided, from the hidden states and from the positions.

        ``kwargs`` are the decoder layer's own: its position ids and embeddings are those of the
        whole prompt in every layer.
        """
        hidden_states = self.leave(hidden_states)
        if self._positions is None:
            cos, sin = (take_tokens(x, self._left) for x in kwargs["position_embeddings"])
            self._positions = {"position_embeddings": (cos, sin)}
            if kwargs.get("position_ids") is not None:
                self._positions["position_ids"] = take_tokens(kwargs["position_ids"], self._left)
        self._kept.append(self._left)
        return hidden_states, kwargs | self._positions | {"aim_prefill": self}

    def observe_attention(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Record a layer's attention; where the plan drops tokens next, choose those that stay.

        Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], both after the rotary embedding. A
        query of the last token alone lets that token stay.
        """
        plan, layer, now = self.plan, len(self._attention_tokens), key.shape[2]
        self._attention_tokens.append(now)
        if query.shape[2] < now:
            self._last_queries = query.shape[2]
            self._next = torch.full_like(self._left[:, -1:], now - 1)
            return
        count = min(plan.mlp_tokens[layer], *plan.attention_tokens[layer + 1 : layer + 2], now)
        if count == now:
            return
        text = self.prompt.text_tokens
        with self._recorder.span("importance"):
            scores = None
            if count > text:
                at = Attended(
                    query, key, scaling, self.visual, now - text, count - text, self._padding
                )
                scores = LAYER_IMPORTANCE[plan.importance](at)
                self._scored_layers.append(layer)
            self._next = select_tokens(self.visual, count, scores)

    def stay(self, x: Tensor) -> Tensor:
        """Of x[B, n, ...], the tokens that the layer has decided to keep."""
        return x if self._next is None else take_tokens(x, self._next)

    def leave(self, x: Tensor) -> Tensor:
        """``stay``, and from now on the others are gone."""
        if self._next is None:
            return x
        x = self.stay(x)
        self.visual, self._left = self.stay(self.visual), self.stay(self._left)
        self._next = self._positions = None
        return x

    def observe_mlp(self, x: Tensor) -> None:
        """Record a layer's MLP from its input x[B, n, hidden]."""
        self._mlp_tokens.append(x.shape[1])

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
        groups, prompt = self.prompt.visual.groups, self.prompt
        tokens = TokenTrace(
            batch=self._left.shape[0],
            groups=groups,
            merge_tokens=self._merge_tokens,
            newline_tokens=prompt.tokens - prompt.text_tokens - groups * self._merge_tokens[-1],
            text_tokens=prompt.text_tokens,
            attention_tokens=tuple(self._attention_tokens),
            mlp_tokens=tuple(self._mlp_tokens),
            scored_layers=tuple(self._scored_layers),
            merged_by=self.plan.merged_by,
            importance=self.plan.importance,
            last_queries=self._last_queries,
        )
        trace.record(tokens, [*self._kept, self._left], cache_tokens)
