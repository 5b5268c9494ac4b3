"""Positions of a merged prompt's tokens in the prompt as it was before merging."""

from typing import Any

import torch
from torch import Tensor

from aim_runtime.errors import PatchError
from aim_runtime.prompt import Prompt


def unmerged_positions(prompt: Prompt, places: Tensor) -> Tensor:
    """The position that each token of ``prompt`` had before its frames were merged.

    Shapes: places[B * groups, t] int64, of each token left in a frame its place among the frame's
        tokens -> [B, n] int64 on the device of ``places``. Padding is not counted; its own
        positions are 0.
    """
    visual, mask, device = prompt.visual, prompt.visual_mask, places.device
    videos = visual.newline_tokens  # one follows each video
    frames = visual.groups // videos
    short, full = (frames * tokens + 1 for tokens in (places.shape[1], visual.group_tokens))
    here = torch.arange(prompt.tokens).expand_as(mask)
    if prompt.padding is not None:
        here = here - prompt.padding[:, None]
    rows = mask.shape[0]
    # text: further on by what each video before it has lost
    before = mask.cumsum(dim=1) // short
    moved = (here + before * (full - short)).clamp_(min=0).to(device, non_blocking=True)
    # visual tokens: from the start of their video, frame by frame
    index = mask.nonzero()[:, 1].view(rows, -1)
    starts = (here.gather(1, index[:, ::short]) + torch.arange(videos) * (full - short)).to(
        device, non_blocking=True
    )
    frame = torch.arange(frames, device=device)[:, None] * visual.group_tokens
    inside = (places.view(rows, videos, frames, -1) + frame).flatten(2)
    newline = torch.full((rows, videos, 1), full - 1, device=device)
    positions = starts[:, :, None] + torch.cat([inside, newline], dim=2)
    return moved.scatter(1, index.to(device, non_blocking=True), positions.flatten(1))


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
