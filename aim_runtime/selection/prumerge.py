"""What the vision tower attends to, each with what is near it: PruMerge, arXiv 2403.15388."""

import torch
from torch import Tensor
from torch.nn import functional

from aim_cost.ops.visual_scores.budgets import outlier_tokens
from aim_runtime.reduction.select import spread, take_tokens
from aim_runtime.selection.candidates import Candidates, Kept, selects

NEAREST = 32
"""Tokens that are added to each one that stays, as in the released code."""


@selects("vision-attention-pairs")
def pairs(of: Candidates) -> Kept:
    """Keep the tokens that receive the most attention, and one that sums up the rest."""
    return _merged(of, of.keep - 1)


@selects("vision-attention-spread")
def pairs_spread(of: Candidates) -> Kept:
    """The same of PruMerge+: some of the tokens stand at equal steps between the others."""
    return _merged(of, outlier_tokens(of.keep))


def _merged(of: Candidates, outliers: int) -> Kept:
    """Keep the ``outliers`` most attended tokens, then some at equal steps; one token is the rest.

    To each of those that stay the tokens with the nearest keys are added. What goes is added up at
    the place of the most attended of it. Attention is the weight in both sums.
    """
    features, attention = of.in_sets(of.features), of.in_sets(of.attention())
    order = attention.argsort(dim=1, descending=True, stable=True)
    between, _ = spread(order[:, outliers:].sort(dim=1).values, of.keep - 1 - outliers)
    chosen = torch.cat([order[:, :outliers], between], dim=1)
    goes = torch.ones_like(attention, dtype=torch.bool).scatter(1, chosen, False)
    ranked = attention.masked_fill(~goes, -torch.inf)
    extra = ranked.argsort(dim=1, descending=True, stable=True)[:, :1]
    index = torch.cat([chosen, extra], dim=1)
    near = _nearest(of.in_sets(of.keys(each_head=True)), index)
    added = torch.cat([near[:, :-1], goes.unsqueeze(1)], dim=1) * attention.unsqueeze(1)
    own = take_tokens(features, chosen).float()
    merged = functional.pad(own, (0, 0, 0, 1)) + added @ features.float()
    return of.kept(index, merged)


def _nearest(keys: Tensor, index: Tensor) -> Tensor:
    """Of each token of ``index``, the NEAREST others by the cosine of their keys.

    Shapes: keys[sets, n, d], index[sets, k] -> bool [sets, k, n].
    """
    unit = functional.normalize(keys, dim=-1)
    cosine = take_tokens(unit, index) @ unit.transpose(1, 2)
    others = cosine.scatter(2, index.unsqueeze(-1), -torch.inf)
    order = others.argsort(dim=-1, descending=True, stable=True)
    near = order[..., : min(NEAREST, keys.shape[1] - 1)]
    return torch.zeros_like(cosine, dtype=torch.bool).scatter(2, near, True)
