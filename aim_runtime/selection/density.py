"""Density peaks: centres of clusters are dense tokens far from any denser one (DPC-KNN).

Source: Du et al. 2016, as PruneVid (arXiv 2412.16117) uses it, without its random tie-breaks.
Shapes: n tokens of width H; ``near``, bool [..., n, n], which tokens are compared with which.
"""

import torch
from torch import Tensor


def squared_distances(x: Tensor) -> Tensor:
    """Mean squared difference of all pairs: x[..., n, H] -> [..., n, n], in float32."""
    x = x.float()
    norms = x.square().sum(dim=-1)
    products = x @ x.transpose(-1, -2)
    squares = norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * products
    same = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
    return (squares / x.shape[-1]).clamp_(min=0).masked_fill_(same, 0)


def density_scores(squares: Tensor, near: Tensor, neighbours: int) -> Tensor:
    """Density of each token times its distance to the closest denser one: [..., n].

    Of equally dense tokens the earlier one counts as denser. The densest is as far as any two of
    those near it. Those that are near nobody score 0.
    Args: squares, of ``squared_distances``; neighbours, the closest ones that make the density, the
        token itself included.
    """
    far = squares.masked_fill(~near, torch.inf)
    closest = far.topk(min(neighbours, far.shape[-1]), largest=False).values
    found = closest.isfinite()
    total = closest.masked_fill_(~found, 0).sum(dim=-1)
    density = (-total / found.sum(dim=-1).clamp_(min=1)).exp()
    here, there = density.unsqueeze(-1), density.unsqueeze(-2)
    place = torch.arange(far.shape[-1], device=far.device)
    denser = (there > here) | ((there == here) & (place < place[:, None]))
    closest_denser = far.masked_fill(~denser, torch.inf).amin(dim=-1)
    widest = squares.masked_fill(~near, 0).amax(dim=-1).unsqueeze(-2)
    widest = widest.masked_fill(~near, 0).amax(dim=-1)
    apart = torch.where(closest_denser.isfinite(), closest_denser, widest)
    return density * apart.sqrt()


def ranks(scores: Tensor, near: Tensor) -> Tensor:
    """How many of those near a token score above it, or alike and earlier: int64 [..., n]."""
    here, there = scores.unsqueeze(-1), scores.unsqueeze(-2)
    place = torch.arange(scores.shape[-1], device=scores.device)
    above = (there > here) | ((there == here) & (place < place[:, None]))
    return (above & near).sum(dim=-1)


def nearest_centres(squares: Tensor, near: Tensor, centres: Tensor) -> Tensor:
    """The closest of ``centres``, bool [..., n], near each token; of a centre itself: [..., n]."""
    place = torch.arange(centres.shape[-1], device=centres.device)
    reached = near & centres.unsqueeze(-2)
    closest = squares.masked_fill(~reached, torch.inf).argmin(dim=-1)
    return torch.where(centres, place, closest)


def cluster_sums(
    x: Tensor, squares: Tensor, near: Tensor, centres: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums of x[..., n, H] over the cluster of each centre, and the members of each, [..., n, 1].

    Tokens that are near no centre are in no cluster. float32; of other tokens 0.
    """
    target = nearest_centres(squares, near, centres)
    reached = (near & centres.unsqueeze(-2)).any(dim=-1)
    place = torch.arange(x.shape[-2], device=x.device)
    belongs = (target.unsqueeze(-2) == place[:, None]) & reached.unsqueeze(-2)
    return belongs.float() @ x.float(), belongs.sum(dim=-1, keepdim=True)
