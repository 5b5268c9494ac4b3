"""Positions on three axes (time, row, column) of prompts that merging has shortened."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from aim_runtime.errors import PatchError
from aim_runtime.layout import Layout
from aim_runtime.positions import unmerged_places
from aim_runtime.prompt import Prompt

Inputs = dict[str, Any]


class Axes:
    """Positions of the full prompt, computed by the model itself, looked up for those left."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._table: Tensor | None = None  # [3, B, N], of the full prompts

    def forget(self) -> None:
        """A new prompt comes."""
        self._table = None

    def behind(self, rope_index: Callable[..., Any]) -> Callable[..., Any]:
        """A model's ``get_rope_index`` that also takes shortened prompts.

        Positions [3, B, n] of visual tokens are then those of the first places of each image and
        video, until ``look_up`` knows which places are left.
        """

        @wraps(rope_index)
        def rope_index_of_full_prompt(
            input_ids: Tensor,
            mm_token_type_ids: Tensor,
            *args: Any,
            attention_mask: Tensor | None = None,
            **kwargs: Any,
        ) -> tuple[Tensor, Tensor]:
            prompt = self._layout.prepare(
                {"input_ids": input_ids, "attention_mask": attention_mask} | kwargs
            ).prompt
            lost = torch.tensor([sum(p.lost for p in row) for row in prompt.placed])
            places = unmerged_places(prompt, {})
            ends = places[:, -1:] + 1
            full = torch.arange(int(ends.max())).expand(len(places), -1)
            # of each token of the full prompt the one here; the end of a run repeats its last
            back = (torch.searchsorted(places, full, right=True) - 1).to(input_ids.device)
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            real = mask.gather(1, back) * (full < ends).to(mask.device)
            table, deltas = rope_index(
                input_ids.gather(1, back),
                mm_token_type_ids.gather(1, back),
                *args,
                attention_mask=real,
                **kwargs,
            )
            self._table = table
            return _columns(table, places), deltas + lost[:, None].to(deltas.device)

        return rope_index_of_full_prompt

    def look_up(self, inputs: Inputs, prompt: Prompt, places: Tensor) -> Inputs:
        """A decoder's ``inputs`` with positions of ``places`` [B, n] in the full prompts.

        Raises: PatchError for position_ids that differ at text, or that were not computed.
        """
        given, table = inputs.get("position_ids"), self._table
        if given is None or table is None:
            raise PatchError(
                "mm_token_type_ids",
                expected="those of the processor, for positions on three axes",
                got="none",
                fix="Pass all that the processor returned.",
            )
        table = table.repeat_interleave(len(places) // table.shape[1], dim=1)
        positions = _columns(table, places)
        text = ~prompt.visual_mask.to(given.device)
        if prompt.padding is not None:
            text &= torch.arange(prompt.tokens) >= prompt.padding[:, None]
        if bool(((given[-3:] != positions) & text).any()):
            raise PatchError(
                "position_ids",
                expected="those of the prompt before merging, which survivors keep",
                got="others",
                fix="Leave them out.",
            )
        # a fourth row, if any, numbers the tokens for the mask
        return inputs | {"position_ids": torch.cat([given[:-3], positions])}


def _columns(table: Tensor, places: Tensor) -> Tensor:
    return table.gather(2, places.to(table.device).expand(len(table), -1, -1))
