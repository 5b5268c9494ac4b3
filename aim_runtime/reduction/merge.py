"""Merging of a frame's visual tokens: decide, e.g. with ``match_tokens``, then apply the plan.

Source: AIM, arXiv 2412.03248, section 3.1; the matching is that of ToMe, arXiv 2210.09461. Random
pairs and equal runs are baselines.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from aim_cost.errors import ScheduleError
from aim_runtime.reduction.chance import random_numbers


class Plan(Protocol):
    """One pass, decided: which tokens of each group become one."""

    def merge(self, x: Tensor) -> Tensor:
        """x[groups, tokens, width] -> [groups, kept, width], same dtype; x is not changed."""
        ...

    def places(self, x: Tensor) -> Tensor:
        """x[groups, tokens] -> [groups, kept]: the entry of the token that each output stands for.

        Of merged tokens that is the one merged into.
        """
        ...


@dataclass(frozen=True)
class MergePlan:
    """Which token of set A (even positions) goes into which token of set B (odd positions).

    Args:
        unmerged: int64 [groups, A - removed], tokens of A that stay, most similar first.
        sources: int64 [groups, removed], tokens of A that are merged, most similar first.
        targets: int64 [groups, removed], the token of B that takes each source.
    Indices count within A and within B.
    """

    unmerged: Tensor
    sources: Tensor
    targets: Tensor

    def merge(self, x: Tensor) -> Tensor:
        """Merge ``x``: each target becomes the mean of itself and its sources.

        Shapes: x[groups, tokens, width] -> [groups, tokens - removed, width]: the unmerged tokens
        of A in the plan's order, then all of B in order. Same dtype and device (sums in fp32);
        x is not changed.
        """
        a, b = x[:, ::2], x[:, 1::2]
        index = _columns(self.targets, x.shape[-1])
        sums = b.float().scatter_add(1, index, _rows(a, self.sources).float())
        one = torch.ones((), device=x.device)
        members = one.repeat(*b.shape[:2], 1).scatter_add(
            1, self.targets.unsqueeze(-1), one.expand(*self.targets.shape, 1)
        )
        return torch.cat([_rows(a, self.unmerged), (sums / members).to(x.dtype)], dim=1)

    def average(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """``merge``, each token weighing its size, as one that stands for several does.

        Shapes: x[groups, tokens, width], sizes[groups, tokens, 1] in float32, neither changed.
        Returns: what is left of ``x``, as ``merge`` gives it, and its sizes.
        """
        a, b = x[:, ::2], x[:, 1::2]
        moving, standing = _rows(sizes[:, ::2], self.sources), sizes[:, 1::2]
        weighed = _rows(a, self.sources).float() * moving
        sums = (b.float() * standing).scatter_add(1, _columns(self.targets, x.shape[-1]), weighed)
        size = standing.scatter_add(1, self.targets.unsqueeze(-1), moving)
        left = torch.cat([_rows(a, self.unmerged), (sums / size).to(x.dtype)], dim=1)
        return left, torch.cat([_rows(sizes[:, ::2], self.unmerged), size], dim=1)

    def follow(self, places: Tensor) -> Tensor:
        """Where tokens went: int64 [groups, n], indices before the pass -> those after it."""
        stayed = self.unmerged.shape[1]
        first = torch.arange(stayed, device=places.device).expand(len(places), -1)
        of_a = torch.cat([self.unmerged, self.sources], dim=1)
        went = torch.cat([first, stayed + self.targets], dim=1)
        went = torch.zeros_like(of_a).scatter(1, of_a, went)
        half = places // 2
        return torch.where(places % 2 == 0, went.gather(1, half), stayed + half)

    def places(self, x: Tensor) -> Tensor:
        """The entries of the unmerged tokens of A, then those of B: see Plan."""
        return torch.cat([x[:, ::2].gather(1, self.unmerged), x[:, 1::2]], dim=1)


@dataclass(frozen=True)
class RunPlan:
    """Neighbours become their mean; the order stays.

    Args:
        first, last: int64 [kept], the ends of each run of one or two tokens, alike in all groups.
    """

    first: Tensor
    last: Tensor

    def merge(self, x: Tensor) -> Tensor:
        """Each run becomes its mean (in fp32): see Plan."""
        first, last = x[:, self.first], x[:, self.last]
        return ((first.float() + last.float()) / 2).to(x.dtype)

    def places(self, x: Tensor) -> Tensor:
        """The entries of the first token of each run: see Plan."""
        return x[:, self.first]


def match_tokens(keys: Tensor, remove: int) -> MergePlan:
    """Choose the ``remove`` tokens of each group to merge, by cosine similarity.

    Every token of A finds its most similar token of B; the ``remove`` most similar pairs merge.

    Shapes: keys[groups, tokens, width]; a[g, A, w] @ b[g, B, w]^T -> [g, A, B]; contracted: w;
        A = ceil(tokens / 2), B = floor(tokens / 2).
    FLOPs as torch counts them: 2 * A * B * width a group. No device sync; works on meta.
    Raises: ScheduleError if ``remove`` is not within 1 .. tokens // 2.
    """
    _check_removal(keys, remove)
    unit = functional.normalize(keys, dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    best, target = similarity.max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    sources = order[:, :remove]
    return MergePlan(unmerged=order[:, remove:], sources=sources, targets=target.gather(1, sources))


def random_pairs(keys: Tensor, remove: int) -> MergePlan:
    """Draw the ``remove`` tokens of A to merge, and for each a token of B; a baseline.

    The same pairs in every group, unless inside ``chance.drawing``. Shapes, errors: as
    ``match_tokens``.
    """
    _check_removal(keys, remove)
    groups, tokens = keys.shape[:2]
    numbers = random_numbers(groups, tokens).to(keys.device, non_blocking=True)
    first = tokens - tokens // 2
    order = numbers[:, :first].argsort(dim=1)
    targets = (numbers[:, first : first + remove] * (tokens // 2)).long()
    return MergePlan(unmerged=order[:, remove:], sources=order[:, :remove], targets=targets)


def equal_runs(keys: Tensor, remove: int) -> RunPlan:
    """Cut each group into runs of neighbours, equally long as far as the count allows; a baseline.

    Shapes, errors: as ``match_tokens``.
    """
    _check_removal(keys, remove)
    tokens = keys.shape[1]
    kept = tokens - remove
    bounds = torch.arange(kept + 1, device=keys.device) * tokens // kept
    return RunPlan(first=bounds[:-1], last=bounds[1:] - 1)


MERGE_PLANS: dict[str, Callable[[Tensor, int], Plan]] = {
    "similarity": match_tokens,
    "random": random_pairs,
    "uniform": equal_runs,
}
"""How a pass is decided, by the name that a schedule's ``merge.by`` gives."""


def merge_passes(
    features: Tensor, counts: Sequence[int], by: str = "similarity"
) -> Iterator[tuple[Tensor, Plan]]:
    """Merge every group of ``features`` pass by pass, yielding what each pass leaves and its plan.

    Shapes: features[groups, counts[0], width], then [groups, counts[i], width].
    Args:
        counts: tokens of a group before merging and after each pass, as in
            ``TokenTrace.merge_tokens``; one entry merges nothing.
        by: a name of MERGE_PLANS.
    Raises: ScheduleError if the counts do not fit the features.
    """
    if features.shape[1] != counts[0]:
        raise ScheduleError(
            "merge",
            expected=f"groups of {counts[0]} tokens",
            got=features.shape[1],
            fix="Resolve the schedule for this model.",
        )
    decide = MERGE_PLANS[by]
    for count in counts[1:]:
        plan = decide(features, features.shape[1] - count)
        features = plan.merge(features)
        yield features, plan


def merge_tokens(features: Tensor, counts: Sequence[int], by: str = "similarity") -> Tensor:
    """What the last of ``merge_passes`` leaves: [groups, counts[-1], width]."""
    for merged, _ in merge_passes(features, counts, by):
        features = merged
    return features


def _check_removal(keys: Tensor, remove: int) -> None:
    tokens = keys.shape[1]
    if not 1 <= remove <= tokens // 2:
        raise ScheduleError(
            "remove",
            expected=f"1 to {tokens // 2} of {tokens} tokens (one pass removes at most half)",
            got=remove,
            fix="Use more passes.",
        )


def _columns(index: Tensor, width: int) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, width)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, _columns(index, x.shape[-1]))
