"""Features of sampled frames in the length of the whole video, which ``generate`` counts.

It repeats what it has encoded ahead, and tells prompts apart by their placeholders.
"""

import torch
from torch import Tensor

from aim_runtime.models.visual import VisualItem
from aim_runtime.patching.items import Features
from aim_runtime.prompts.encoded import Items


def spread(features: Features, items: Items) -> Features:
    """Features of encoded tokens at their places among the placeholders, with zeros elsewhere."""
    if not any(item.missing for item in items):
        return features
    rows = [_spread(x, item) for x, item in zip(features, items, strict=True)]
    return torch.stack(rows) if isinstance(features, Tensor) else rows


def gather(features: Features, items: Items) -> Features:
    """The inverse of ``spread``."""
    if not any(item.missing for item in items):
        return features
    rows = [_gather(x, item) for x, item in zip(features, items, strict=True)]
    return torch.stack(rows) if isinstance(features, Tensor) else rows


def _spread(x: Tensor, item: VisualItem) -> Tensor:
    """x[tokens, H] -> [placeholders, H], or of frames [f, t, H] -> [F, t, H]."""
    if not item.missing:
        return x
    whole = x.new_zeros(item.run, x.shape[-1])
    whole[torch.tensor(item.standing, device=x.device)] = x.flatten(0, -2)
    return whole if x.dim() == 2 else whole.unflatten(0, (-1, x.shape[1]))


def _gather(x: Tensor, item: VisualItem) -> Tensor:
    """The inverse of ``_spread``."""
    if not item.missing:
        return x
    left = x.flatten(0, -2)[torch.tensor(item.standing, device=x.device)]
    return left if x.dim() == 2 else left.unflatten(0, (-1, x.shape[1]))
