"""The tokens of each layer, for many schedules at once."""

from collections.abc import Iterator

import numpy as np

from aim_cost.sweeps.grid import Counts
from aim_cost.timing.form import Array, Mask


def layer_tokens(
    ratios: Array, visual: Counts, text: Counts, prune: Counts
) -> Iterator[tuple[Counts, Mask, Mask]]:
    """For each layer: tokens entering it, whether some left before it, whether it ranks them.

    ``Schedule.resolve`` for many rows, which a test holds it to: ratios are ``Prune``'s own, and
    the truncation is that of ``Prune.visual_tokens``.
    Shapes: ratios[layers, prunes]; visual, text, prune (a column of ratios) and all results [rows].
    """
    before = now = visual + text
    for ratio in ratios[:-1]:
        then = (visual * ratio.take(prune) + text).astype(np.int64)
        yield now, now < before, (text < then) & (then < now)
        before, now = now, then
    yield now, now < before, np.zeros(len(now), dtype=bool)
