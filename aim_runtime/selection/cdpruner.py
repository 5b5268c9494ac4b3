"""Tokens that are unlike one another and like the text: CDPruner.

Source: arXiv 2506.10967; the greedy search is that of arXiv 1709.05135.
"""

import torch
from torch import Tensor
from torch.nn import functional

from aim_runtime.selection.candidates import Candidates, Kept, selects

_SMALLEST = 1e-6
_DEPENDENT = 1e-5
"""A token of which less than this share lies outside the span of those chosen adds nothing."""


@selects("determinantal")
def determinantal(of: Candidates) -> Kept:
    """One after the other, the token that makes the determinant of the kernel largest.

    The kernel of two tokens is the relevance of one times their cosine times the relevance of the
    other. So what counts of a token is its squared relevance times the squared length of its unit
    vector outside the span of those chosen. Where no token is left that has any, the earlier ones
    follow.
    """
    unit = functional.normalize(of.features.float(), dim=-1)
    weight = of.in_sets(_relevance(unit, of.texts)).square()
    unit = of.in_sets(unit)
    cosines = unit @ unit.transpose(1, 2)  # [sets, n, n]
    sets, tokens, _ = cosines.shape
    factors = cosines.new_empty(sets, of.keep, tokens)  # rows of a Cholesky factor
    outside, taken = torch.ones_like(weight), torch.zeros_like(weight)
    chosen = []
    for step in range(of.keep):
        gain = torch.addcmul(taken, weight, functional.threshold(outside, _DEPENDENT, 0.0))
        index = gain.argmax(dim=1, keepdim=True)
        chosen.append(index)
        row = cosines.gather(1, index[:, :, None].expand(-1, 1, tokens))
        if step:
            before = factors[:, :step]
            own = before.gather(2, index[:, :, None].expand(-1, step, 1))
            row = torch.baddbmm(row, own.transpose(1, 2), before, alpha=-1)
        length = functional.threshold(outside.gather(1, index), _DEPENDENT, torch.inf)
        row = row[:, 0] * length.rsqrt()  # zero where the token adds nothing
        factors[:, step] = row
        outside = torch.addcmul(outside, row, row, value=-1)
        taken.scatter_(1, index, -torch.inf)
    return of.kept(torch.cat(chosen, dim=1))


def _relevance(unit: Tensor, texts: tuple[Tensor, ...]) -> Tensor:
    """Mean cosine of each token to the text of its prompt, [items, tokens], within (0, 1].

    Args: unit[items, tokens, H]; texts, [T, H] of each item. Without text all are equally relevant.
    """
    text = torch.stack(
        [functional.normalize(t.float(), dim=-1).sum(dim=0) / max(1, len(t)) for t in texts]
    )
    cosines = (unit @ text[:, :, None])[:, :, 0]
    least, most = cosines.amin(dim=1, keepdim=True), cosines.amax(dim=1, keepdim=True)
    return (cosines - least + _SMALLEST) / (most - least + _SMALLEST)
