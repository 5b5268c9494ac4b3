"""Linear read-outs of the visual tokens, for the first stage of training only."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from aim_runtime.tiny.scenes import COLORS, PLACES


class Heads(nn.Module):
    """Digit, colour and place from tokens, or from the mean of a quadrant."""

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.digit, self.color = nn.Linear(hidden, 11), nn.Linear(hidden, len(COLORS) + 1)
        self.place = nn.Linear(hidden, len(PLACES))

    def losses(self, features: Tensor, digit: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
        """The loss over tokens and quadrants, and the accuracy of digits over quadrants.

        Shapes: features[n, tokens, hidden], digit and color [n, 4], with a class for
        nothing.
        """
        # a square of tokens -> [n, 4 places, tokens of a place, hidden]
        half = math.isqrt(features.shape[1]) // 2
        grid = features.unflatten(1, (2, half, 2, half)).transpose(2, 3)
        grid = grid.flatten(1, 2).flatten(2, 3)
        place = torch.arange(len(PLACES)).expand(len(digit), -1)
        loss = features.new_zeros(())
        for x in (grid, grid.mean(dim=2, keepdim=True)):
            for head, target in ((self.digit, digit), (self.color, color), (self.place, place)):
                wanted = target[..., None].expand(x.shape[:3])
                loss = loss + functional.cross_entropy(head(x).flatten(0, 2), wanted.flatten())
        guess = self.digit(grid.mean(dim=2)).argmax(dim=-1)
        return loss, (guess == digit).float().mean()
