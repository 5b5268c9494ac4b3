"""A slow second opinion on the ways to choose that read the attention of the vision tower.

Written from the papers; the budget is split as aim_cost.ops.visual_scores.budgets says.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.runtime.slow_selections import SlowItem, slow


def _sets(item: SlowItem) -> list[range]:
    each = len(item.features) // item.sets
    return [range(start, start + each) for start in range(0, len(item.features), each)]


def _first(item: SlowItem, scores: dict[int, float], count: int) -> list[int]:
    """The ``count`` places of the highest scores, the highest first."""
    order = sorted(scores, key=lambda place: (-scores[place], place))
    if 0 < count < len(order):
        worst, loser = scores[order[count - 1]], scores[order[count]]
        if worst != loser:
            item.decide(abs(worst - loser) / max(abs(worst), 1e-30))
    return order[:count]


def _ordered(item: SlowItem, scores: dict[int, float]) -> list[int]:
    """All places, the highest score first."""
    return [*(_first(item, scores, n)[-1] for n in range(1, len(scores) + 1))]


def _merged(tokens: dict[int, Tensor]) -> tuple[list[int], Tensor]:
    return sorted(tokens), torch.stack([tokens[place] for place in sorted(tokens)])


def _steps(places: list[int], count: int) -> list[int]:
    return [places[len(places) // count * number] for number in range(count)]


@slow("vision-attention")
def vision_attention(item: SlowItem) -> tuple[list[int], Tensor]:
    return item.best(item.tower().received().flatten().tolist())


@slow("vision-attention-joined")
def visionzip(item: SlowItem) -> tuple[list[int], Tensor]:
    tower, kept = item.tower(), {}
    attention, keys = tower.received().flatten().tolist(), tower.keys().flatten(0, 1)
    number = math.ceil(item.keep * 10 / 64)
    for places in _sets(item):
        dominant = _first(item, {p: attention[p] for p in places}, item.keep - number)
        rest = [place for place in places if place not in dominant]
        targets = _steps(rest, number)
        joined = {target: [] for target in targets}
        for place in rest:
            if place not in targets:
                like = {t: float(cosine_similarity(keys[place], keys[t], 0)) for t in targets}
                joined[_first(item, like, 1)[0]].append(item.features[place])
        kept |= {place: item.features[place] for place in dominant}
        for target, others in joined.items():
            mean = torch.stack(others).mean(0) if others else 0
            kept[target] = item.features[target] + mean
    return _merged(kept)


@slow("vision-attention-pairs")
def prumerge(item: SlowItem) -> tuple[list[int], Tensor]:
    return _prumerge(item, item.keep - 1)


@slow("vision-attention-spread")
def prumerge_plus(item: SlowItem) -> tuple[list[int], Tensor]:
    return _prumerge(item, (item.keep - 1) // 4)


def _prumerge(item: SlowItem, outliers: int) -> tuple[list[int], Tensor]:
    tower, kept = item.tower(), {}
    attention, keys = tower.received().flatten().tolist(), tower.wide_keys().flatten(0, 1)
    for places in _sets(item):
        stay = _first(item, {p: attention[p] for p in places}, outliers)
        stay += _steps([p for p in places if p not in stay], item.keep - 1 - outliers)
        for place in stay:
            others = [p for p in places if p != place]
            like = {p: float(cosine_similarity(keys[place], keys[p], 0)) for p in others}
            near = _first(item, like, min(32, len(others)))
            added = sum(attention[p] * item.features[p] for p in near)
            kept[place] = item.features[place] + added
        gone = [place for place in places if place not in stay]
        most = _first(item, {p: attention[p] for p in gone}, 1)[0]
        kept[most] = sum(attention[p] * item.features[p] for p in gone)
    return _merged(kept)


@slow("vision-attention-varied")
def vispruner(item: SlowItem) -> tuple[list[int], Tensor]:
    attention, kept = item.tower().received().flatten().tolist(), []
    for places in _sets(item):
        order = _ordered(item, {p: attention[p] for p in places})
        number = int(item.keep * 0.5)
        kept += order[:number]
        rest, diverse = order[number:], item.keep - number
        while len(rest) > diverse:
            like = {}
            for p in rest[0::2]:
                others = item.features[rest[1::2]]
                like[p] = float(cosine_similarity(item.features[[p]], others).max())
            leave = min(8, len(rest) - diverse, len(like))
            rest = _ordered(item, like)[leave:] + rest[1::2]
        kept += rest
    return sorted(kept), item.features[sorted(kept)]
