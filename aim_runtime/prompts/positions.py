"""Positions of the tokens of a prompt that merging has shortened, and of those after it.

The caller counts the tokens of their own prompt; so does ``generate``. Each kind of positions turns
what they count into what the shortened prompt has.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aim_runtime.errors import PatchError
from aim_runtime.models.inputs import Inputs
from aim_runtime.prompts.cache_checks import cached_tokens
from aim_runtime.prompts.cached import Cached
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.prompt import Prompt


class Positions(ABC):
    """A way to count positions.

    Order of calls: ``prepare`` before a prompt is embedded, ``merged`` before it enters the
    decoder, ``after`` for new tokens after its cache.
    """

    def check(self, given: Inputs, prompt: Prompt) -> None:  # noqa: B027
        """Raises: PatchError for a caller's inputs from which no positions can be computed."""

    @abstractmethod
    def prepare(self, given: Inputs, short: Inputs, prompt: Prompt) -> tuple[Inputs, Tensor | None]:
        """``short``, the inputs of a shortened prompt, with ``position_ids``.

        Args: given, the caller's inputs.
        Returns: also the table [..., B or 1, N] of the caller's positions, if tokens keep them.
        Raises: PatchError for ``position_ids`` that have no meaning once the prompt is shortened.
        """

    @abstractmethod
    def merged(
        self, inputs: Inputs, prompt: Prompt, encoded: Mapping[str, Encoded], table: Tensor | None
    ) -> Inputs:
        """A decoder's ``inputs`` with the positions of the tokens that merging left.

        Args: table, as ``prepare`` returned it.
        """

    def after(self, inputs: Inputs, cached: Cached, tokens: int) -> Inputs:
        """``inputs`` of ``tokens`` new ones after a cached prompt, with their ``position_ids``.

        Raises: PatchError for ``position_ids`` that do not go on from the prompt.
        """
        ids = inputs.get("input_ids")
        device = (inputs["inputs_embeds"] if ids is None else ids).device
        last, highest = cached.last_position.to(device), cached.highest_position.to(device)
        new = torch.arange(1, tokens + 1, device=device)
        new += cached_tokens(inputs) - cached.prompt.tokens
        given = inputs.get("position_ids")
        if given is None:
            return self._uncounted_after(inputs, highest + new)
        if not any(cached.prompt.lost):
            return inputs
        return self._counted_after(inputs, given, (last + new, highest + new), cached.prompt)

    @abstractmethod
    def _uncounted_after(self, inputs: Inputs, expected: Tensor) -> Inputs: ...

    @abstractmethod
    def _counted_after(
        self, inputs: Inputs, given: Tensor, expected: tuple[Tensor, ...], prompt: Prompt
    ) -> Inputs: ...


class RecountedPositions(Positions):
    """Positions 0, 1, 2, ... of the tokens that are left, as ``merge.positions`` recounted."""

    def prepare(self, given: Inputs, short: Inputs, prompt: Prompt) -> tuple[Inputs, Tensor | None]:
        positions = given.get("position_ids")
        if positions is None:
            return short, None
        return short | {"position_ids": recounted(positions, prompt)}, None

    def merged(
        self, inputs: Inputs, prompt: Prompt, encoded: Mapping[str, Encoded], table: Tensor | None
    ) -> Inputs:
        return inputs

    def _uncounted_after(self, inputs: Inputs, expected: Tensor) -> Inputs:
        return inputs  # the decoder counts its cache

    def _counted_after(
        self, inputs: Inputs, given: Tensor, expected: tuple[Tensor, ...], prompt: Prompt
    ) -> Inputs:
        lost = torch.tensor(prompt.lost, device=given.device)[:, None]
        if _equal(given, expected[0] + lost):
            return inputs | {"position_ids": given - lost}
        if _equal(given, expected[0]):
            return inputs
        raise _refused(given, "those that go on from the prompt, as the caller counts it")


class KeptPositions(Positions):
    """Positions that the tokens left had in the caller's prompt."""

    _number_prompts: ClassVar[bool] = True
    """Whether a decoder without a mask reads from positions which tokens are of one prompt."""

    def prepare(self, given: Inputs, short: Inputs, prompt: Prompt) -> tuple[Inputs, Tensor | None]:
        cut = prompt.cut
        if cut is None:
            return short, None
        table = given.get("position_ids")
        if table is None:
            table = self._counted(given, prompt)
        elif table.shape[-1] != cut.tokens:
            raise _refused(table, f"one for each of {cut.tokens} tokens, or none")
        # those of visual tokens are looked up again, once merging has chosen them
        return short | {"position_ids": self._columns(table, cut.sources, prompt)}, table

    def merged(
        self, inputs: Inputs, prompt: Prompt, encoded: Mapping[str, Encoded], table: Tensor | None
    ) -> Inputs:
        if table is None:
            return inputs
        positions = self._columns(table, unmerged_places(prompt, encoded), prompt)
        mask = inputs.get("attention_mask")
        if mask is None and self._number_prompts:
            # without a mask, positions with gaps would be read as several prompts in a row
            mask = torch.ones(
                len(prompt.visual), prompt.tokens, dtype=torch.int64, device=positions.device
            )
        return inputs | {"position_ids": positions, "attention_mask": mask}

    def _counted(self, given: Inputs, prompt: Prompt) -> Tensor:
        """The table of a prompt without ``position_ids``."""
        places = torch.arange(prompt.caller_tokens, device=given["input_ids"].device)[None]
        if prompt.cut is None or prompt.cut.padding is None:
            return places
        return (places - prompt.cut.padding.to(places.device)[:, None]).clamp(min=0)

    def _columns(self, table: Tensor, places: Tensor, prompt: Prompt) -> Tensor:
        return columns(table, places)

    def _uncounted_after(self, inputs: Inputs, expected: Tensor) -> Inputs:
        return inputs | {"position_ids": expected}

    def _counted_after(
        self, inputs: Inputs, given: Tensor, expected: tuple[Tensor, ...], prompt: Prompt
    ) -> Inputs:
        counted = given[-3:] if given.dim() == 3 else given
        if any(_equal(counted, one) for one in expected):
            return inputs
        raise _refused(given, "those that go on from the caller's prompt, which tokens keep")


def recounted(positions: Tensor, prompt: Prompt) -> Tensor:
    """Positions [B, n] of what is left of a prompt whose ``positions`` [B or 1, N] count tokens.

    Raises: PatchError for others.
    """
    cut = prompt.cut
    if cut is None:
        return positions
    device, rows = positions.device, len(prompt.visual)
    positions = positions.repeat_interleave(rows // len(positions), dim=0)
    place = torch.arange(cut.tokens, device=device)
    counts = positions.dim() == 2 and positions.shape[-1] == cut.tokens
    if counts:
        real = torch.ones(rows, cut.tokens, dtype=torch.bool, device=device)
        if cut.padding is not None:
            real = place >= cut.padding.to(device)[:, None]
        counts = not bool(((positions - positions[:, -1:] != place - place[-1]) & real).any())
    if not counts:
        raise _refused(positions, "none, or those that count tokens: merging counts them again")
    last = positions[:, -1:] - torch.tensor(prompt.lost, device=device)[:, None]
    return (last - torch.arange(prompt.tokens - 1, -1, -1, device=device)).clamp(min=0)


def unmerged_places(prompt: Prompt, encoded: Mapping[str, Encoded]) -> Tensor:
    """The place that each token of ``prompt`` had in the caller's, -1 at padding it had not.

    Returns: int64 [B, n], on the device of what was encoded. A merged token has the place of the
        token merged into.
    """
    if prompt.cut is None:
        return torch.arange(prompt.tokens, device="cpu").repeat(len(prompt.visual), 1)
    sources = prompt.cut.sources
    rows: list[Tensor] = []
    columns: list[Tensor] = []
    places: list[Tensor] = []
    for number, placed_here in enumerate(prompt.placed):
        for placed in placed_here:
            if not placed.lost:
                continue
            inside, first = encoded[placed.modality].standing(placed.number), 0
            left = [run.tokens for run in placed.runs]
            for run, own in zip(placed.runs, inside.split(left), strict=True):
                if run.tokens:
                    here = torch.arange(run.start, run.start + run.tokens, device="cpu")
                    rows.append(torch.full_like(here, number))
                    columns.append(here)
                    places.append(own + (int(sources[number, run.start]) - first))
                first += run.whole
    device = places[0].device
    index = tuple(torch.cat(part).to(device, non_blocking=True) for part in (rows, columns))
    # a copy: the prompt outlives this prefill
    return sources.to(device, copy=True).index_put_(index, torch.cat(places))


def columns(table: Tensor, places: Tensor) -> Tensor:
    """The columns ``places`` [B', n] of table[..., B or 1, N]; B' is B, or each row repeated."""
    rows = len(places)
    table = table.repeat_interleave(rows // table.shape[-2], dim=-2)
    places = places.to(table.device).clamp(min=0)
    return table.gather(-1, places.expand(*table.shape[:-1], -1))


def _equal(given: Tensor, expected: Tensor) -> bool:
    """Whether positions [..., B or 1, n] are ``expected`` [B or 1, n]."""
    return not bool((given != expected.to(given.device)).any())


def _refused(given: Tensor, expected: str) -> PatchError:
    return PatchError(
        "position_ids", expected=expected, got=f"others {list(given.shape)}", fix="Leave them out."
    )
