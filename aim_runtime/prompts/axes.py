"""Positions on three axes (time, row, column) of prompts that merging has shortened."""

import inspect
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.inputs import Inputs
from aim_runtime.prompts.positions import KeptPositions, columns, recounted
from aim_runtime.prompts.prompt import Prompt

_TYPES = {"image": 1, "video": 2}  # of a model's mm_token_type_ids


class AxesPositions(KeptPositions):
    """Positions [3, B, N] that the model itself computes of the caller's prompt.

    ``generate`` puts a row before them that numbers the tokens for the mask: [4, B, N].
    """

    _number_prompts: ClassVar[bool] = False

    def __init__(self, adapter: Adapter) -> None:
        self.inner, self._placeholders = adapter.inner, adapter.placeholders

    def check(self, given: Inputs, prompt: Prompt) -> None:
        ids, types = given["input_ids"], given.get("mm_token_type_ids")
        if given.get("position_ids") is not None or not any(prompt.lost):
            return
        for row in prompt.placed:
            runs = sorted((r.start, r.tokens, p.modality) for p in row for r in p.runs)
            for (start, tokens, modality), (other, _, its) in pairwise(runs):
                if start + tokens == other and modality == its:
                    raise PatchError(
                        "input_ids",
                        expected=f"text between two {modality}s, for positions on three axes",
                        got="none",
                        fix="Let the model's processor write the prompt.",
                    )
        got = "none" if types is None else "others"
        if types is not None and types.shape == ids.shape:
            wrong = torch.zeros_like(ids, dtype=torch.bool)
            for modality, token in self._placeholders.items():
                wrong |= (ids == token) != (types.to(ids.device) == _TYPES[modality])
            if given.get("attention_mask") is not None:
                wrong &= given["attention_mask"].to(ids.device).bool()
            got = "others" if bool(wrong.any()) else ""
        if got:
            raise PatchError(
                "mm_token_type_ids",
                expected="those of the processor: 1 at the placeholders of images, 2 at those of "
                "videos, 0 elsewhere",
                got=got,
                fix="Pass all that the processor returned.",
            )

    def _counted(self, given: Inputs, prompt: Prompt) -> Tensor:
        names = inspect.signature(self.inner.compute_3d_position_ids).parameters
        table: Tensor | None = self.inner.compute_3d_position_ids(
            **{name: given.get(name) for name in names}
        )
        if table is None:
            raise PatchError(
                "prompt",
                expected="the grids of its images and videos, for positions on three axes",
                got="none",
                fix="Pass all that the processor returned.",
            )
        return table

    def _columns(self, table: Tensor, places: Tensor, prompt: Prompt) -> Tensor:
        if table.dim() == 3 and len(table) == 4:
            numbers = recounted(table[0], prompt)[None]
            return torch.cat([numbers, columns(table[1:], places)])
        return columns(table, places)

    def _uncounted_after(self, inputs: Inputs, expected: Tensor) -> Inputs:
        return inputs | {"position_ids": expected.expand(3, -1, -1)}
