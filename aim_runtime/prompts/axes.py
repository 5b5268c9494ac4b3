"""Positions on three axes (time, row, column) of prompts that merging has shortened."""

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from aim_runtime.models.adapter import Adapter
from aim_runtime.prompts.positions import KeptPositions, columns, recounted
from aim_runtime.prompts.prompt import Prompt

Inputs = dict[str, Any]


class AxesPositions(KeptPositions):
    """Positions [3, B, N] that the model itself computes of the caller's prompt.

    ``generate`` puts a row before them that numbers the tokens for the mask: [4, B, N].
    """

    _number_prompts: ClassVar[bool] = False

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self._inner = adapter.inner

    def _counted(self, given: Inputs, prompt: Prompt) -> Tensor:
        names = inspect.signature(self._inner.compute_3d_position_ids).parameters
        table: Tensor | None = self._inner.compute_3d_position_ids(
            **{name: given.get(name) for name in names}
        )
        if table is None:  # as the decoder counts them
            places = torch.arange(prompt.caller_tokens, device=given["input_ids"].device)
            table = places.expand(3, 1, -1)
        return table

    def _columns(self, table: Tensor, places: Tensor, prompt: Prompt) -> Tensor:
        if table.dim() == 3 and len(table) == 4:
            numbers = recounted(table[0], prompt)[None]
            return torch.cat([numbers, columns(table[1:], places)])
        return columns(table, places)

    def _uncounted_after(self, inputs: Inputs, expected: Tensor) -> Inputs:
        return inputs | {"position_ids": expected.expand(3, -1, -1)}
