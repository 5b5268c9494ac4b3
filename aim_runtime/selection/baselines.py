"""Random and equally spaced tokens: what a method has to beat."""

import torch

from aim_runtime.reduction.chance import random_numbers
from aim_runtime.selection.candidates import Candidates, Kept, selects


@selects("random")
def random(of: Candidates) -> Kept:
    """Drawn by the number of tokens of a set, so that a prompt fares alike in any batch."""
    items, tokens, _ = of.features.shape
    drawn = random_numbers(items * of.sets, tokens // of.sets)
    return of.best(drawn.to(of.features.device, non_blocking=True).reshape(items, tokens))


@selects("uniform")
def uniform(of: Candidates) -> Kept:
    """Tokens of each set at equal distances, the first in the middle of its part."""
    items, tokens, _ = of.features.shape
    each = tokens // of.sets
    middle = 2 * torch.arange(of.keep, device=of.features.device) + 1
    return of.kept((middle * each // (2 * of.keep)).expand(items * of.sets, -1))
