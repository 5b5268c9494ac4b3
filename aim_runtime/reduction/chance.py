"""Random numbers of the random baselines, by the number of a draw."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_SEED = 2412
_STEP = 7919  # a prime, so that seeds of different draws and sizes differ
_DRAW: ContextVar[int | None] = ContextVar("draw", default=None)


@contextmanager
def drawing(number: int) -> Iterator[None]:
    """Inside, random choices are those of draw ``number``, and differ from row to row.

    Outside they are one draw that depends only on sizes, so a prompt gets the same in any batch.
    """
    token = _DRAW.set(number)
    try:
        yield
    finally:
        _DRAW.reset(token)


def random_numbers(rows: int, size: int) -> torch.Tensor:
    """Uniform numbers [rows, size] on the host, from the present draw; equal rows outside one."""
    draw = _DRAW.get()
    generator = torch.Generator().manual_seed(_SEED + size + _STEP * (0 if draw is None else draw))
    if draw is None:
        return torch.rand(1, size, generator=generator, device="cpu").expand(rows, -1)
    return torch.rand(rows, size, generator=generator, device="cpu")
