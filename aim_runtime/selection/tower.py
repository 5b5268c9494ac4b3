"""TowerAttention: queries and keys of the layer of a vision tower whose output is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TowerAttention:
    """One layer of the vision tower, of some frames or crops.

    Args:
        query, key: of each view [n, heads, d], n tokens of the tower: its class tokens, then
            patches. Views differ in n where the tower takes any size.
        scaling: of q k^T in the layer.
        class_tokens: 0 or 1.
        pooled: [views, n, channels] -> [views, tokens, channels], as the model pools features.
    """

    query: Sequence[Tensor]
    key: Sequence[Tensor]
    scaling: float
    class_tokens: int
    pooled: Callable[[Tensor], Tensor]

    def take(self, views: slice) -> "TowerAttention":
        """Some of the views; the methods below need equal ones."""
        return replace(self, query=self.query[views], key=self.key[views])

    def received(self) -> Tensor:
        """Attention that each visual token receives, the mean over heads: [views, tokens].

        That of the class token; of a tower without one, the mean of all patches. float32.
        """
        seen = []
        for query, key in zip(self.query, self.key, strict=True):  # the matrix of one is large
            rows = query[: self.class_tokens] if self.class_tokens else query
            logits = rows.transpose(0, 1) @ key.permute(1, 2, 0)  # [heads, rows, n]
            seen.append((logits.float() * self.scaling).softmax(dim=-1).mean(dim=(0, 1)))
        return self.pooled(torch.stack(seen)[..., None])[..., 0]

    def keys(self) -> Tensor:
        """The keys of each visual token, the mean over heads: [views, tokens, d]."""
        return self.pooled(torch.stack([key.mean(dim=1) for key in self.key]))

    def keys_of_heads(self) -> Tensor:
        """The keys of each visual token, head after head: [views, tokens, heads * d]."""
        return self.pooled(torch.stack([key.flatten(1) for key in self.key]))
