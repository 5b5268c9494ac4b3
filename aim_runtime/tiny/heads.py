"""Linear read-outs of the visual tokens, for the first stage of training only."""

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

        Shapes: features[n, 16, hidden], digit and color [n, 4] with their own class for nothing.
        """
        # 4 x 4 tokens -> [n, 4 places, 4 tokens, hidden]
        grid = features.unflatten(1, (2, 2, 2, 2)).transpose(2, 3).flatten(1, 2).flatten(2, 3)
        place = torch.arange(len(PLACES)).expand(len(digit), -1)
        loss = features.new_zeros(())
        for x, times in ((grid, 4), (grid.mean(dim=2, keepdim=True), 1)):
            for head, target in ((self.digit, digit), (self.color, color), (self.place, place)):
                wanted = target[..., None].expand(-1, -1, times)
                loss = loss + functional.cross_entropy(head(x).flatten(0, 2), wanted.flatten())
        guess = self.digit(grid.mean(dim=2)).argmax(dim=-1)
        return loss, (guess == digit).float().mean()
