"""FastVID: salient tokens of each frame, and anchors that stand for the rest of its segment.

Source: arXiv 2503.11187.
"""

import torch
from torch.nn import functional

from aim_cost.ops.visual_scores.density import anchor_tokens
from aim_runtime.reduction.select import take_tokens
from aim_runtime.selection.candidates import Candidates, Kept, selects
from aim_runtime.selection.density import density_scores, ranks, squared_distances
from aim_runtime.selection.segments import (
    frame_budgets,
    most_of_a_frame,
    same_segment,
    similar_segments,
    stay,
)

SEGMENTS, ALIKE, NEIGHBOURS, OWN = 8, 0.9, 4, 0.6
"""The defaults of its code: c, tau, the neighbours of a density, and alpha."""


@selects("vision-attention-dense")
def anchors_of_segments(of: Candidates) -> Kept:
    """The most attended tokens of each frame, then the centres of its densest others.

    Each centre becomes OWN of itself and else the mean of what is closest to it among those tokens
    of its segment that are not salient.
    """
    x = of.in_frames(of.features)
    items, frames, each, _ = x.shape
    everyone = torch.ones(each, each, dtype=torch.bool, device=x.device)
    budget = frame_budgets(of)
    anchors = anchor_tokens(budget)
    attention = of.in_frames(of.attention())
    salient = ranks(attention, everyone) < (budget - anchors)[:, None]
    most = anchor_tokens(most_of_a_frame(of))
    if not most:
        return stay(of, salient, x)
    rest = ~salient
    near = rest.unsqueeze(-1) & rest.unsqueeze(-2)
    scores = density_scores(squared_distances(x), near, NEIGHBOURS)
    order = scores.masked_fill(salient, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    slot = torch.arange(most, device=x.device)
    used = slot < anchors[:, None]  # [F, most]
    start = each * torch.arange(frames, device=x.device)[:, None]
    places = (order[..., :most] + start).flatten(1)

    unit = functional.normalize(of.features, dim=-1)
    cosines = take_tokens(unit, places) @ unit.transpose(1, 2)
    cosines = cosines.view(items, frames, most, -1).masked_fill(~used.unsqueeze(-1), -torch.inf)
    same = same_segment(similar_segments(x.float().mean(dim=2), ALIKE, SEGMENTS))
    member = same.repeat_interleave(each, dim=2) & rest.flatten(1).unsqueeze(1)
    joins = (cosines.argmax(dim=2, keepdim=True) == slot[:, None]) & member.unsqueeze(2)
    joins = joins.flatten(1, 2).float()  # [items, F * most, F * M]
    members = joins.sum(dim=2, keepdim=True)
    mean = joins @ of.features.float() / members.clamp(min=1)
    weight = (1 / (members + 1)).clamp(min=OWN)
    anchor = take_tokens(of.features, places).float()
    merged = torch.where(used.view(-1, 1), weight * anchor + (1 - weight) * mean, anchor)
    index = places.unsqueeze(-1).expand_as(merged)
    features = of.features.scatter(1, index, merged.to(x.dtype))
    chosen = salient.flatten(1).scatter(1, places, used.flatten().expand_as(places))
    return stay(of, chosen.view(items, frames, each), features.view_as(x))
