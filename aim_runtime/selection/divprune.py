"""Tokens that are least like one another: DivPrune.

Source: arXiv 2503.02175.
"""

import torch
from torch.nn import functional

from aim_runtime.selection.candidates import Candidates, Kept, selects


@selects("pairwise-cosine")
def pairwise_cosine(of: Candidates) -> Kept:
    """One after the other, the token whose largest cosine to those chosen is smallest.

    The first is the one whose largest cosine to any other is smallest. Cosines have the dtype of
    the features, as in the released code.
    """
    unit = of.in_sets(functional.normalize(of.features.float(), dim=-1).to(of.features.dtype))
    cosines = unit @ unit.transpose(1, 2)  # [sets, n, n]
    nearest = cosines.topk(2, dim=1).values[:, 1]  # the largest is that to itself
    seen = torch.full_like(nearest, -torch.inf)
    chosen = []
    for _ in range(of.keep):
        index = nearest.argmin(dim=1, keepdim=True)
        chosen.append(index)
        row = cosines.gather(1, index[:, :, None].expand(-1, 1, cosines.shape[2]))[:, 0]
        seen = seen.maximum(row).scatter_(1, index, torch.inf)
        nearest = seen
    return of.kept(torch.cat(chosen, dim=1))
