"""Slow references of the ways to choose tokens of a video by comparing its frames."""

import math
from itertools import pairwise, product

from torch import Tensor

from tests.runtime.slow_selections import SlowItem, slow
from tests.runtime.slow_similarity import unit

FIRST, LAST = 1e9, -1e9


def _frames(item: SlowItem) -> Tensor:
    """[frames, tokens, H]"""
    return item.features.unflatten(0, (item.frames, -1))


@slow("adjacent-cosine")
def adjacent_cosine(item: SlowItem) -> tuple[list[int], Tensor]:
    x = unit(_frames(item))
    scores = []
    for frame, place in product(range(len(x)), range(x.shape[1])):
        before = frame - 1 if frame else 1
        apart = 1 - float(x[frame, place] @ x[before, place])
        scores.append(apart if frame or item.sets > 1 else FIRST)
    return item.best(scores)


def in_groups(item: SlowItem, *, loop: bool) -> tuple[list[int], Tensor]:
    """Walk over pairs and groups as the code's loops do, and note whom each frame is held to."""
    x = unit(_frames(item))
    frames, tokens = x.shape[:2]
    held = {second: second - 1 for second in range(1, frames, 2)}
    held |= {i + 2: i for i in range(0, frames - 4 if loop else frames - 2, 4)}
    scores = [0.0] * (frames * tokens)
    for frame in range(frames):
        lost = loop and frame == frames - 1 and frame % 2 == 0
        bonus = -tokens if lost else 0 if frame in held else tokens
        other = frame - 1 if lost else held.get(frame, frame + 1)
        other = frame - 1 if other == frames else other
        like = [float(a @ b) for a, b in zip(x[frame], x[other], strict=True)]
        for rank, place in enumerate(sorted(range(tokens), key=lambda j: like[j])):
            scores[frame * tokens + place] = bonus - rank
        near = sorted(like)
        item.decide(min(b - a for a, b in pairwise(near)))
    return item.best(scores)


@slow("groups-of-four")
def groups_of_four(item: SlowItem) -> tuple[list[int], Tensor]:
    return in_groups(item, loop=False)


@slow("groups-of-four-loop")
def groups_of_four_loop(item: SlowItem) -> tuple[list[int], Tensor]:
    return in_groups(item, loop=True)


@slow("frame-centres")
def frame_centres(item: SlowItem) -> tuple[list[int], Tensor]:
    """Frame budgets by one more token at a time to the frame with the strongest claim."""
    x = _frames(item).double()
    frames, tokens, width = x.shape
    flat = x.flatten(0, 1)
    variance = ((flat - flat.mean(0)) ** 2).mean(0)
    calm = variance.argsort(stable=True)[: width // 2]
    x = unit(x[:, :, calm])
    video = x.flatten(0, 1).mean(0)

    def near(token: Tensor, centre: Tensor) -> float:
        squared = float(((token - centre) ** 2).sum())
        return sum(math.exp(-squared / (2 * 2**k)) for k in range(-3, 2))

    to_video = [[near(token, video) for token in frame] for frame in x]
    scores = [
        [v + near(token, frame.mean(0)) for v, token in zip(of_frame, frame, strict=True)]
        for of_frame, frame in zip(to_video, x, strict=True)
    ]
    if item.sets > 1:
        return item.best([-score for frame in scores for score in frame])
    apart = [-sum(row) / tokens for row in to_video]
    odds = [math.exp((a - max(apart)) / 0.01) for a in apart]
    retention = item.keep / (frames * tokens)
    shares = [min(1, retention * (1 + odd / sum(odds) - 1 / frames)) * tokens for odd in odds]
    budgets = dict.fromkeys(range(frames), 0)
    for _ in range(item.keep):
        open_frames = [f for f in budgets if budgets[f] < tokens]
        new = [f for f in open_frames if not budgets[f]]
        claims = (
            {f: shares[f] for f in new}
            if new
            else {f: shares[f] / (budgets[f] + 0.5) for f in open_frames}
        )
        budgets[max(claims, key=lambda f: (claims[f], -f))] += 1
    kept = []
    for f, number in budgets.items():
        order = sorted(range(tokens), key=lambda j: scores[f][j])
        if number < tokens and number:
            item.decide(scores[f][order[number]] - scores[f][order[number - 1]])
        kept += sorted(f * tokens + j for j in order[:number])
    return kept, item.features[kept]
