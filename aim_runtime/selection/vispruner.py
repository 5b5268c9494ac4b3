"""What the vision tower attends to, and tokens unlike one another: VisPruner, arXiv 2412.01818v2.

The second version of FasterVLM's paper.
"""

import torch
from torch.nn import functional

from aim_cost.ops.visual_scores.budgets import duplicate_rounds, important_tokens
from aim_runtime.reduction.select import take_tokens
from aim_runtime.selection.candidates import Candidates, Kept, selects


@selects("vision-attention-varied")
def diverse(of: Candidates) -> Kept:
    """Keep tokens that receive the most attention; of the others, remove duplicates in rounds.

    In each round every second token finds its largest cosine to those between them, and the few
    that are most alike leave. The first round sees the tokens by falling attention, a later one
    those that stayed by falling likeness, then those between them.
    """
    order = of.in_sets(of.attention()).argsort(dim=1, descending=True, stable=True)
    number = important_tokens(of.keep)
    important, rest = order[:, :number], order[:, number:]
    unit = functional.normalize(take_tokens(of.in_sets(of.features), rest), dim=-1)
    cosine = unit @ unit.transpose(1, 2)
    left = torch.arange(rest.shape[1], device=rest.device).expand(len(rest), -1)
    for leave in duplicate_rounds(rest.shape[1], of.keep - number):
        a, b = left[:, ::2], left[:, 1::2]
        pairs = (a.unsqueeze(2) * rest.shape[1] + b.unsqueeze(1)).flatten(1)
        likeness = cosine.flatten(1).gather(1, pairs).unflatten(1, (a.shape[1], -1)).amax(dim=2)
        stay = likeness.argsort(dim=1, descending=True, stable=True)[:, leave:]
        left = torch.cat([a.gather(1, stay), b], dim=1)
    return of.kept(torch.cat([important, rest.gather(1, left)], dim=1))
