"""DeepStack: features of inner blocks of the tower go with the tokens that a schedule leaves.

Qwen3-VL adds them to the hidden states of visual tokens after the first layers of the LLM, a level
after each (arXiv 2406.04334). Before the LLM they are averaged, or chosen, as the tokens are;
inside it those of tokens that have left are left out.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from aim_runtime.models.part import Part
from aim_runtime.patching.current import Current
from aim_runtime.patching.prefill import Prefill
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.encoded import Encoded, Items
from aim_runtime.reduction.select import take_tokens
from aim_runtime.seams import deepstack_levels, with_deepstack_levels


class DeepStack:
    """Adds features to the visual tokens that are left after a layer.

    Args: run, where it finds the prefill that runs.
    """

    def __init__(self, decoder: Part, run: Current[Any]) -> None:
        self._decoder, self._run = decoder, run

    def attach(self, changes: Changes) -> None:
        """Change what the decoder calls after its first layers."""
        own = self._decoder._deepstack_process
        changes.replace(self._decoder, "_deepstack_process", self._of_those_left(own))

    def _of_those_left(self, own: Callable[..., Tensor]) -> Callable[..., Tensor]:

        @wraps(own)
        def process(hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Any:
            prefill = self._run.value
            if not isinstance(prefill, Prefill) or prefill.is_whole:
                return own(hidden_states, visual_pos_masks, visual_embeds)
            if not prefill.has_candidates:
                return hidden_states
            left = prefill.left
            visual, features = _of_left(visual_pos_masks.to(left.device), visual_embeds, left)
            return own(hidden_states, visual, features)

        return process


def _of_left(visual: Tensor, features: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of visual [B, n] and of features [visual tokens, H]; left, int64 [B, n']."""
    numbers = (visual.flatten().cumsum(0) - 1).view_as(visual)
    visual, numbers = take_tokens(visual, left), take_tokens(numbers, left)
    return visual, features[numbers[visual].to(features.device)]


def reduce_levels(output: Any, items: Items, encoded: Encoded) -> None:
    """Do to the features of inner blocks in an encoder's ``output`` what was done to its tokens.

    Args: items, whose features they are; encoded, what became of their tokens.
    """
    levels = [_reduced(level, encoded) for level in deepstack_levels(output, items)]
    with_deepstack_levels(output, levels)


def reduce_ready_levels(
    output: Any, items: Items, encoded: Encoded, numbers: Sequence[int]
) -> None:
    """The same of features that ``generate`` has made ahead and repeated.

    Args: numbers, of the item behind each entry.
    """
    levels = deepstack_levels(output, [items[number] for number in numbers])
    first = [numbers.index(number) for number in range(len(items))]
    rows = [_reduced([level[i] for i in first], encoded) for level in levels]
    with_deepstack_levels(output, [[level[number] for number in numbers] for level in rows])


def _reduced(level: Sequence[Tensor], encoded: Encoded) -> list[Tensor]:
    """Features [tokens, H] of each item -> [left, H]."""
    rows: list[Tensor] = []
    for number, again in encoded.again:
        alike = level[len(rows) : len(rows) + number]
        rows += again(alike[0].unsqueeze(0) if number == 1 else torch.stack(list(alike)))
    return rows
