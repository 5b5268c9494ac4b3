"""Axes: positions on three axes (time, row, column) of prompts that merging has shortened."""

from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.inputs import Inputs
from aim_runtime.prompts.cached import Cached, cached_tokens
from aim_runtime.prompts.positions import positions_behind, unmerged_places
from aim_runtime.prompts.prompt import Prompt

_TYPES = {"image": 1, "video": 2}  # of a model's mm_token_type_ids


class Axes:
    """Positions of the full prompt, computed by the model itself, looked up for those left.

    The table of a prompt serves the one prefill that follows ``expect``.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.inner, self._placeholders = adapter.inner, adapter.placeholders
        self._prompt: Prompt | None = None
        self._table: Tensor | None = None  # [3, B, N], of the full prompts

    @property
    def deltas(self) -> Tensor | None:
        """The offset of the positions of new tokens, [B, 1]; None before a prefill."""
        deltas: Tensor | None = self.inner.rope_deltas
        return deltas

    @deltas.setter
    def deltas(self, deltas: Tensor | None) -> None:
        self.inner.rope_deltas = deltas

    def deltas_of(self, rows: int) -> Tensor | None:
        """``deltas`` of so many rows, each repeated as ``Prompt.expand`` does."""
        deltas = self.deltas
        return deltas if deltas is None else deltas.repeat_interleave(rows // len(deltas), dim=0)

    def expect(self, prompt: Prompt, inputs: Inputs) -> None:
        """A new prompt comes; ``inputs`` are the caller's. Raises: PatchError."""
        self.forget()
        self.deltas = None
        if any(prompt.lost):
            self._check(prompt, inputs)
            self._prompt = prompt

    def forget(self) -> None:
        """No prompt is expected any more."""
        self._table = self._prompt = None

    def go_on(self, inputs: Inputs, cached: Cached) -> Inputs:
        """``inputs`` that follow a cached prompt, with positions that go on from it."""
        self.deltas = (
            cached.deltas
        )  # the offsets of the last prompt may belong to another conversation
        if self.deltas is None:
            return inputs
        before, tokens = cached_tokens(inputs), inputs["input_ids"].shape[1]
        positions = positions_behind(before, tokens, cached.prompt, self.deltas)
        return inputs | {"position_ids": positions}

    def _check(self, prompt: Prompt, inputs: Inputs) -> None:
        """Raises: PatchError unless the model can tell each image and video in the prompt."""
        ids, types = inputs["input_ids"], inputs.get("mm_token_type_ids")
        got = "none" if types is None else "others"
        if types is not None and types.shape == ids.shape:
            wrong = torch.zeros_like(ids, dtype=torch.bool)
            for modality, token in self._placeholders.items():
                wrong |= (ids == token) != (types == _TYPES[modality])
            if inputs.get("attention_mask") is not None:
                wrong &= inputs["attention_mask"].bool()
            got = "others" if bool(wrong.any()) else ""
        if got:
            raise PatchError(
                "mm_token_type_ids",
                expected="those of the processor, for positions on three axes: 1 at the "
                "placeholders of images, 2 at those of videos, 0 elsewhere",
                got=got,
                fix="Pass all that the processor returned.",
            )
        for row in prompt.placed:
            for one, other in pairwise(row):
                touch = one.start + one.tokens == other.start
                if touch and one.modality == other.modality:
                    raise PatchError(
                        "input_ids",
                        expected=f"text between two {one.modality}s, for positions on three axes",
                        got="none",
                        fix="Let the model's processor write the prompt.",
                    )

    def behind(self, rope_index: Callable[..., Any]) -> Callable[..., Any]:
        """A model's ``get_rope_index`` that also takes the shortened prompt that is expected.

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
            prompt = self._prompt
            if prompt is None or input_ids.shape != prompt.visual_mask.shape:
                own = {"attention_mask": attention_mask, **kwargs}
                positions, deltas = rope_index(input_ids, mm_token_type_ids, *args, **own)
                return positions, deltas
            places = unmerged_places(prompt, {})
            ends = places[:, -1:] + 1
            full = torch.arange(int(ends.max())).repeat(len(places), 1)
            # for each token of the full prompt the place here; the end of a run repeats its last
            # place
            back = (torch.searchsorted(places, full, right=True) - 1).to(input_ids.device)
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            real = mask.gather(1, back) * (full < ends).to(mask.device)
            self._table, deltas = rope_index(
                input_ids.gather(1, back),
                mm_token_type_ids.gather(1, back),
                *args,
                attention_mask=real,
                **kwargs,
            )
            lost = torch.tensor(prompt.lost)[:, None]
            return _columns(self._table, places), deltas + lost.to(deltas.device)

        return rope_index_of_full_prompt

    def look_up(self, inputs: Inputs, prompt: Prompt, places: Tensor) -> Inputs:
        """A decoder's ``inputs`` with positions of ``places`` [B, n] in the full prompts.

        Raises: PatchError for position_ids that differ at text, or that were not computed.
        """
        given, table = inputs.get("position_ids"), self._table
        self.forget()
        if given is None:
            raise PatchError(
                "prompt",
                expected="the grids of its images and videos, for positions on three axes",
                got="none",
                fix="Pass all that the processor returned.",
            )
        ours = False
        if table is not None:
            table = table.repeat_interleave(len(places) // table.shape[1], dim=1)
            positions = _columns(table, places)
            text = ~prompt.visual_mask
            if prompt.padding is not None:
                text &= torch.arange(prompt.tokens) >= prompt.padding[:, None]
            ours = not bool(((given[-3:] != positions) & text.to(given.device)).any())
        if not ours:
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
