"""One prefill in progress: what is still there, what leaves next, and what was seen."""

from typing import Any

import torch
from torch import Tensor

from aim_cost.trace import TokenTrace
from aim_runtime.errors import PatchError
from aim_runtime.importance import pagerank_importance
from aim_runtime.prompt import Prompt
from aim_runtime.prune import select_tokens, take_tokens
from aim_runtime.spans import Recorder
from aim_runtime.trace import RunTrace


class Prefill:
    """Drops tokens between layers as ``plan`` says, and records the counts that really occur.

    Args:
        plan: the resolved schedule. Its ``attention_tokens`` say how many stay; nothing of it is
            copied into the record.
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
        self._plan, self._prompt, self._merge_tokens = plan, prompt, merge_tokens
        self._recorder = recorder
        # non-blocking: the vision tower may still be running
        self._visual = prompt.visual_mask.to(device, non_blocking=True)
        everything = torch.arange(prompt.tokens, device=device)
        self._kept = [everything.expand(self._visual.shape[0], -1)]
        self._next: Tensor | None = None
        self._positions: dict[str, Any] = {}
        self._attention_tokens: list[int] = []
        self._mlp_tokens: list[int] = []
        self._scored_layers: list[int] = []

    def enter_layer(
        self, hidden_states: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Drop what the layer before decided, from the hidden states and from the positions.

        ``kwargs`` are the decoder layer's own: its position ids and embeddings are those of the
        whole prompt in every layer.
        """
        if self._next is not None:
            hidden_states = take_tokens(hidden_states, self._next)
            self._visual = take_tokens(self._visual, self._next)
            kept = take_tokens(self._kept[-1], self._next)
            cos, sin = kwargs["position_embeddings"]
            self._positions = {
                "position_embeddings": (take_tokens(cos, kept), take_tokens(sin, kept))
            }
            if kwargs.get("position_ids") is not None:
                self._positions["position_ids"] = take_tokens(kwargs["position_ids"], kept)
            self._kept.append(kept)
            self._next = None
        elif self._attention_tokens:
            self._kept.append(self._kept[-1])
        return hidden_states, kwargs | self._positions | {"aim_prefill": self}

    def observe_attention(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Record a layer's attention; where the plan drops tokens next, choose those that stay.

        Shapes: query[B, heads, n, d], key[B, kv_heads, n, d], both after the rotary embedding.
        """
        layer, now = len(self._attention_tokens), query.shape[2]
        self._attention_tokens.append(now)
        following = self._plan.attention_tokens[layer + 1 : layer + 2]
        if not following or following[0] == now:
            return
        count = following[0]
        with self._recorder.span("importance"):
            scores = None
            if count > self._prompt.text_tokens:
                scores = pagerank_importance(query, key, scaling=scaling)
                self._scored_layers.append(layer)
            self._next = select_tokens(self._visual, count, scores)

    def observe_mlp(self, x: Tensor) -> None:
        """Record a layer's MLP from its input x[B, n, hidden]."""
        self._mlp_tokens.append(x.shape[1])

    def finish(self, trace: RunTrace, cache_tokens: tuple[int, ...]) -> None:
        """Write the record. Raises: PatchError when a layer ran without being observed."""
        layers = len(self._plan.attention_tokens)
        if len(self._attention_tokens) != layers:
            raise PatchError(
                "attention implementation",
                expected=f"{layers} layers under the patch",
                got=len(self._attention_tokens),
                fix="Do not change the model's attention implementation while it is patched.",
            )
        groups, prompt = self._prompt.visual.groups, self._prompt
        tokens = TokenTrace(
            batch=self._kept[0].shape[0],
            groups=groups,
            merge_tokens=self._merge_tokens,
            newline_tokens=prompt.tokens - prompt.text_tokens - groups * self._merge_tokens[-1],
            text_tokens=prompt.text_tokens,
            attention_tokens=tuple(self._attention_tokens),
            mlp_tokens=tuple(self._mlp_tokens),
            scored_layers=tuple(self._scored_layers),
        )
        trace.record(tokens, [*self._kept, self._kept[-1]], cache_tokens)
