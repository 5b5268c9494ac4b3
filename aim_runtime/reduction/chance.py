"""Which draw the random baselines take."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_SEED = 2412
_STEP = 7919  # a prime, so that draws and sizes do not meet
_DRAW: ContextVar[int | None] = ContextVar("draw", default=None)


@contextmanager
def drawing(number: int) -> Iterator[None]:
    """Inside, random choices are those of draw ``number``, and differ from row to row.

    Outside they are one draw that depends on sizes alone, so a prompt fares alike in any batch.
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
