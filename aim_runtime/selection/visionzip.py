"""What the vision tower attends to, and a summary of the rest: VisionZip, arXiv 2412.04467."""

import torch
from torch import Tensor
from torch.nn import functional

from aim_cost.ops.visual_scores.budgets import contextual_tokens
from aim_runtime.reduction.select import spread, take_tokens
from aim_runtime.selection.candidates import Candidates, Kept, selects


@selects("vision-attention-joined")
def contextual(of: Candidates) -> Kept:
    """Keep dominant tokens, which receive the most attention, and contextual ones between them.

    Contextual tokens stand at equal steps in what the dominant ones leave. Every token that goes
    joins the one of them whose key has the largest cosine to its own, and the mean of those that
    joined is added to it, as the released code does.
    """
    features, number = of.in_sets(of.features), contextual_tokens(of.keep)
    order = of.in_sets(of.attention()).argsort(dim=1, descending=True, stable=True)
    dominant, rest = order[:, : of.keep - number], order[:, of.keep - number :]
    targets, others = spread(rest.sort(dim=1).values, number)
    keys = functional.normalize(of.in_sets(of.keys()), dim=-1)
    cosine = take_tokens(keys, others) @ take_tokens(keys, targets).transpose(1, 2)
    joined = _means(take_tokens(features, others), cosine.argmax(dim=-1), number)
    summed = take_tokens(features, targets).float() + joined
    kept = torch.cat([take_tokens(features, dominant), summed.to(features.dtype)], dim=1)
    return of.kept(torch.cat([dominant, targets], dim=1), kept)


def _means(x: Tensor, went: Tensor, number: int) -> Tensor:
    """The mean of the tokens that went to each of ``number``, 0 where none did, in float32.

    Shapes: x[sets, n, H], went[sets, n] -> [sets, number, H].
    """
    sums = x.new_zeros(len(x), number, x.shape[-1], dtype=torch.float32)
    sums = sums.scatter_add(1, went.unsqueeze(-1).expand_as(x), x.float())
    members = sums.new_zeros(len(x), number).scatter_add(1, went, sums.new_ones(went.shape))
    return sums / members.clamp(min=1).unsqueeze(-1)
