"""Pruning by masks alone, as AIM's released code does it: nothing is dropped, everything is scored.

For measurements only: it shows what masking costs beside dropping. Eager attention, so that the
masked matrix exists; every layer computes all tokens.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedModel,
)
from transformers.masking_utils import eager_mask

from aim_cost.models.workload import VisualInput
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import PatchError
from aim_runtime.models import require_onevision
from aim_runtime.models.part import Part
from aim_runtime.patching.patch import patched
from aim_runtime.patching.prefill import Prefill
from aim_runtime.recorder import NULL_RECORDER, Recorder
from aim_runtime.reduction.importance import ITERATIONS, TEMPERATURE
from aim_runtime.trace import RunTrace

_NAME = "aim_masked"


@contextmanager
def masked(
    model: PreTrainedModel,
    schedule: Schedule,
    *,
    recorder: Recorder = NULL_RECORDER,
) -> Iterator[RunTrace]:
    """Run ``model`` under ``schedule`` inside the block: merged for good, pruned by masks.

    One prompt at a time. The trace that comes back holds full counts, since nothing leaves.
    Raises: PatchError for other models, for a schedule that prunes in another way than AIM, and
        when several prompts come at once.
    """
    decoder = require_onevision(model, "masked").model.language_model
    _require_aims_way(schedule)
    merging = replace(schedule, prune=None)
    with patched(model, merging, recorder=recorder) as trace:
        state = _Masks(schedule, recorder)
        with ExitStack() as undo:
            undo.callback(decoder.set_attn_implementation, decoder.config._attn_implementation)
            decoder.set_attn_implementation(_NAME)
            for layer in decoder.layers:
                hook = layer.register_forward_pre_hook(state.enter_layer, with_kwargs=True)
                undo.callback(hook.remove)
            yield trace


def _require_aims_way(schedule: Schedule) -> None:
    """Raises: PatchError unless AIM's score prunes between layers, and nothing is selected."""
    prune = schedule.prune
    way = Prune.importance, Prune.drop_point, Prune.inject_at
    if schedule.select is not None or (
        prune is not None and (prune.importance, prune.drop_point, prune.inject_at) != way
    ):
        raise PatchError(
            "schedule",
            expected="merging, and pruning between layers by pagerank, as AIM masks",
            got=schedule.label(),
            fix="Drop tokens instead: with patched(model, schedule).",
        )


class _Masks:
    """Which tokens may still be attended to; ``kept`` is bool [n]."""

    kept: Tensor
    _visual: Tensor
    _counts: tuple[int, ...]

    def __init__(self, schedule: Schedule, recorder: Recorder) -> None:
        self._schedule, self._recorder = schedule, recorder

    def enter_layer(
        self, module: Part, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if module.self_attn.layer_idx == 0:
            self._begin(kwargs["aim_prefill"])
        return args, kwargs | {"aim_masks": self}

    def _begin(self, prefill: Prefill) -> None:
        if len(prefill.visual) > 1:
            raise PatchError(
                "inputs",
                expected="one prompt at a time under masked",
                got=f"{len(prefill.visual)} prompts",
                fix="Call the model for each prompt.",
            )
        plan, pruning = prefill.plan, Schedule(prune=self._schedule.prune)
        everything = VisualInput(groups=1, group_tokens=plan.visual_tokens, newline_tokens=0)
        self._counts = pruning.resolve_visual(
            everything, text_tokens=plan.text_tokens, layers=len(plan.attention_tokens)
        ).attention_tokens
        self._visual = prefill.visual[0]
        self.kept = torch.ones_like(self._visual)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """Attend, then score and mask: q[1, h, n, d], k and v[1, kv, n, d] -> [1, n, h, d]."""
        heads, tokens = query.shape[1], query.shape[2]
        groups = heads // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        blocked = ~(self.kept | torch.eye(tokens, dtype=torch.bool, device=query.device))
        blocked |= torch.ones_like(blocked).triu(1)
        logits = (query @ key.transpose(2, 3) * scaling).masked_fill(blocked, -torch.inf)
        output = logits.softmax(dim=-1, dtype=torch.float32).to(query.dtype) @ value
        following = self._counts[layer + 1 : layer + 2]
        if following and following[0] < self._counts[layer]:
            with self._recorder.span("importance"):
                self._mask_all_but(following[0], logits[0])
        return output.transpose(1, 2).contiguous()

    def _mask_all_but(self, count: int, logits: Tensor) -> None:
        """Keep text and the best visual tokens; all heads at once, as released."""
        transition = (logits / TEMPERATURE).softmax(dim=-1, dtype=torch.float32)
        rank = (self.kept / self.kept.sum()).expand(len(logits), 1, -1)
        for _ in range(ITERATIONS):
            rank = rank @ transition
        scores = rank.pow(2).mean(dim=0).sqrt()[0].masked_fill(~self.kept, -torch.inf)
        scores = scores.masked_fill(~self._visual, torch.inf)
        order = scores.argsort(descending=True, stable=True)
        self.kept = torch.zeros_like(self.kept).index_fill(0, order[:count], True)


def _attention(
    module: Part,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    aim_masks: _Masks,
    aim_prefill: Prefill,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    del attention_mask, kwargs  # one prompt without padding: the mask is made here
    output = aim_masks.attend(module.layer_idx, query, key, value, scaling)
    aim_prefill.observe_attention(module.layer_idx, query, key, scaling)
    return output, None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)
