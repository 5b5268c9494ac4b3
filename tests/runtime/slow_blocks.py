"""A slow second opinion on queries and keys of the last block of Qwen's towers, patch by patch."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.runtime.slow_selections import SlowTower

WINDOW = 2
"""Tokens on a side of a window of the tiny Qwen2.5-VL."""


def slow_blocks(
    model: PreTrainedModel, kind: str, pixels: Tensor, grid: tuple[int, int, int]
) -> SlowTower:
    """Of one image or video: ``grid`` in patches, as its processor gives it."""
    tower, entered = model.model.visual, []
    hook = tower.blocks[-1].register_forward_pre_hook(
        lambda module, args, kwargs: entered.append((*args, *kwargs.values())[0]), with_kwargs=True
    )
    tower(pixels, grid_thw=torch.tensor([grid]))
    hook.remove()
    places = _patches(*grid)
    order = _in_windows(places) if kind == "qwen2.5-vl" else places
    block = tower.blocks[-1]
    projected = dict(zip(order, block.attn.qkv(block.norm1(entered[0])), strict=True))
    heads = block.attn.num_heads
    query, key = [], []
    for patch in places:
        q, k, _ = projected[patch].view(3, heads, -1)
        query.append(torch.stack([_turned(head, *patch[1:]) for head in q]))
        key.append(torch.stack([_turned(head, *patch[1:]) for head in k]))
    shape = (grid[0], -1, heads, query[0].shape[-1])
    views = (torch.stack(x).view(shape).transpose(1, 2) for x in (query, key))
    return SlowTower(*views, 0, lambda x: sum(x[:, corner::4] for corner in range(4)) / 4)


def _patches(times: int, rows: int, columns: int) -> list[tuple[int, int, int]]:
    """Time, row and column of each patch as the pixels come: square after square."""
    return [
        (time, row + down, column + across)
        for time in range(times)
        for row in range(0, rows, 2)
        for column in range(0, columns, 2)
        for down in (0, 1)
        for across in (0, 1)
    ]


def _in_windows(places: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The same patches as they stand in the tower: window after window."""
    side = 2 * WINDOW
    return sorted(places, key=lambda p: (p[0], p[1] // side, p[2] // side))


def _turned(x: Tensor, row: int, column: int) -> Tensor:
    """A query or key of one head: its pairs turn by the row, then by the column."""
    half = len(x) // 2
    speeds = [10000.0 ** (-2 * number / half) for number in range(half // 2)]
    angles = torch.tensor([side * speed for side in (row, column) for speed in speeds])
    a, b = x[:half], x[half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()])
