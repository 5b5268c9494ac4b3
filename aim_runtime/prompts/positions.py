"""Positions of a merged prompt's tokens in the prompt as it was before merging."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aim_runtime.errors import PatchError
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.prompt import Prompt


def unmerged_places(prompt: Prompt, encoded: Mapping[str, Encoded | None]) -> Tensor:
    """The place that each token of ``prompt`` had before merging; padding counts.

    Args: encoded, what was encoded for each modality; without it the first places of each item are
    taken.
    Returns: int64 [B, n], on the device of what was encoded. A merged token has the place of the
        token merged into.
    """
    places = torch.arange(prompt.tokens).repeat(len(prompt.visual_mask), 1)
    rows: list[Tensor] = []
    columns: list[Tensor] = []
    inside: list[Tensor] = []
    for number, placed_here in enumerate(prompt.placed):
        lost = 0
        for placed in placed_here:
            if not placed.lost:
                continue
            here = torch.arange(placed.start, placed.start + placed.tokens)
            source = encoded.get(placed.modality)
            inner = torch.arange(placed.tokens) if source is None else source.places[placed.number]
            rows.append(torch.full_like(here, number))
            columns.append(here)
            inside.append(inner + (placed.start + lost))
            lost += placed.lost
            places[number, placed.start + placed.tokens :] += placed.lost
    if not inside:
        return places
    device = inside[0].device
    index = tuple(torch.cat(part).to(device, non_blocking=True) for part in (rows, columns))
    return places.to(device, non_blocking=True).index_put_(index, torch.cat(inside))


def unmerged_positions(prompt: Prompt, encoded: Mapping[str, Encoded | None]) -> Tensor:
    """``unmerged_places`` without padding, whose own positions are 0."""
    places = unmerged_places(prompt, encoded)
    if prompt.padding is None:
        return places
    return (places - prompt.padding.to(places.device)[:, None]).clamp_(min=0)


def positions_behind(cached: int, tokens: int, prompt: Prompt, shift: Tensor) -> Tensor:
    """Positions [B, tokens] of new tokens after a prompt of which ``cached`` tokens are cached.

    Args: shift, int64 [B, 1], how far the prompt's own positions go beyond its tokens.
    """
    if prompt.padding is not None:
        shift = shift - prompt.padding.to(shift.device)[:, None]
    return torch.arange(cached, cached + tokens, device=shift.device) + shift


def with_positions(inputs: dict[str, Any], positions: Tensor, text: Tensor) -> dict[str, Any]:
    """A decoder's ``inputs`` with ``positions`` [B, n].

    Raises: PatchError for position_ids that differ where text[B, n] is True.
    """
    given, text = inputs.get("position_ids"), text.to(positions.device)
    if given is not None and bool(((given != positions) & text).any()):
        raise PatchError(
            "position_ids",
            expected="those of the prompt before merging, which the schedule keeps",
            got="others",
            fix="Leave them out.",
        )
    mask = inputs.get("attention_mask")
    if mask is None:
        # without a mask, positions with gaps would be read as several prompts in a row
        mask = torch.ones_like(positions)
    return inputs | {"position_ids": positions, "attention_mask": mask}
