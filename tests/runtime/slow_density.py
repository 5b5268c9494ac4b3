"""A slow second opinion on the ways to choose by density and segments, token by token in float64.

A cell is (frame, place in the frame). Written from the papers, with the budget fixed.
"""

from itertools import pairwise

import torch
from torch import Tensor

from tests.runtime.slow_selections import SlowItem, slow

Cell = tuple[int, int]
Found = tuple[list[int], Tensor]


class Video:
    """The frames of an item, and decisions on them."""

    def __init__(self, item: SlowItem) -> None:
        self.item, self.frames = item, item.frames
        self.each = len(item.features) // item.frames
        self.own = [frame.double() for frame in item.features.split(self.each)]
        self.in_set = item.frames // item.sets  # frames of a set
        self.most = -(-item.keep // self.in_set)

    def at(self, cell: Cell) -> Tensor:
        return self.own[cell[0]][cell[1]]

    def budget(self, frame: int) -> int:
        n, i = self.in_set, frame % self.in_set
        return self.item.keep * (i + 1) // n - self.item.keep * i // n

    def attention(self) -> dict[Cell, float]:
        seen = self.item.tower().received()
        return {(f, m): float(seen[f, m]) for f in range(self.frames) for m in range(self.each)}

    def above(self, value: float, threshold: float) -> bool:
        self.item.decide(abs(value - threshold))
        return value > threshold

    def first(self, scores: dict[Cell, float], count: int) -> list[Cell]:
        order = sorted(scores, key=lambda cell: (-scores[cell], cell))
        if 0 < count < len(order):
            worst, loser = (scores[order[count - 1 + i]] for i in (0, 1))
            if worst != loser:
                self.item.decide(abs(worst - loser) / max(abs(worst), 1e-30))
        return order[:count]

    def nearest(self, values: dict) -> object:
        """The key of the smallest value, the first of equal ones."""
        (least, key), *others = sorted((value, key) for key, value in values.items())
        if others and others[0][0] != least:
            self.item.decide((others[0][0] - least) / max(abs(others[0][0]), 1e-30))
        return key

    def density(self, points: dict, neighbours: int) -> dict:
        """Density times the distance to the closest denser point."""
        squares = {
            (a, b): float((points[a] - points[b]).square().mean()) for a in points for b in points
        }
        dense = {}
        for a in points:
            closest = sorted(squares[a, b] for b in points)[:neighbours]
            dense[a] = float(torch.tensor(-sum(closest) / len(closest)).double().exp())
        scores = {}
        for a in points:
            denser = [b for b in points if (-dense[b], b) < (-dense[a], a)]
            apart = [squares[a, b] for b in denser] or [max(squares.values())]
            scores[a] = dense[a] * min(apart) ** 0.5
        for one, other in pairwise(sorted(dense.values())):
            if one != other:
                self.item.decide((other - one) / max(other, 1e-30))
        return scores

    def clusters(self, points: dict[Cell, Tensor], centres: list[Cell]) -> dict[Cell, list[Cell]]:
        """The points closest to each centre; none where there are no centres."""
        members: dict[Cell, list[Cell]] = {centre: [centre] for centre in centres}
        for cell in points if centres else ():
            if cell not in members:
                far = {c: float((points[cell] - points[c]).square().mean()) for c in centres}
                members[self.nearest(far)].append(cell)
        return members

    def cut(self, alike: list[float], least: int) -> list[int]:
        """The segment of each frame, of the cosines of neighbours."""
        cuts = {n for n, value in enumerate(alike) if not self.above(value, 0.9)}
        by_value = self.first({(n, 0): -value for n, value in enumerate(alike)}, least - 1)
        cuts |= {n for n, _ in by_value}
        return [sum(cut < f for cut in cuts) for f in range(self.frames)]

    def alike(self) -> list[float]:
        means = [frame.mean(0) for frame in self.own]
        return [float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairwise(means)]

    def result(self, kept: dict[Cell, Tensor]) -> Found:
        places = {f * self.each + m: token for (f, m), token in kept.items()}
        order = sorted(places)
        return order, torch.stack([places[p] for p in order]).to(self.item.features.dtype)

    def deal(self, total: int, sizes: list[int]) -> list[int]:
        ends = [total * sum(sizes[: n + 1]) // sum(sizes) for n in range(len(sizes))]
        return [b - a for a, b in pairwise([0, *ends])]

    def stand_still(
        self, segment: list[int], likeness: dict[Cell, float]
    ) -> tuple[list[tuple[bool, dict[Cell, Tensor]]], list[int]]:
        """Groups of points, the still and the others of each frame, and how many each keeps."""
        groups: list[tuple[bool, dict[Cell, Tensor]]] = []
        for f in range(self.frames):
            window = [g for g in range(self.frames) if segment[g] == segment[f]]
            first = window[0]
            scores = {(first, m): likeness[first, m] for m in range(self.each)}
            best = self.first(scores, self.each - self.most) if len(window) > 1 else []
            still = [m for g, m in best if self.above(scores[g, m], 0.8)]
            means = {(f, m): sum(self.own[g][m] for g in window) / len(window) for m in still}
            groups.append((True, {c: means[c] for c in sorted(means)} if f == first else {}))
            others = [m for m in range(self.each) if m not in still]
            groups.append((False, {(f, m): self.own[f][m] for m in others}))
        counts, n = [], 2 * self.in_set
        for start in range(0, len(groups), n):
            sizes = [len(points) for _, points in groups[start : start + n]]
            counts += self.deal(self.item.keep, sizes)
        return groups, counts


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=0))


@slow("vision-attention-dense")
def anchors_of_segments(item: SlowItem) -> Found:
    video, kept = Video(item), {}
    attention, segment = video.attention(), video.cut(video.alike(), 8)
    salient, anchors = {}, {}
    for f in range(video.frames):
        scores = {cell: score for cell, score in attention.items() if cell[0] == f}
        number = int(video.budget(f) * 0.4 + 1e-9)
        salient[f] = video.first(scores, video.budget(f) - number)
        rest = {cell: video.at(cell) for cell in scores if cell not in salient[f]}
        anchors[f] = video.first(video.density(rest, 4), number) if number else []
        kept |= {cell: video.at(cell) for cell in salient[f]}
    for f in range(video.frames):
        joined: dict[Cell, list[Tensor]] = {anchor: [] for anchor in anchors[f]}
        for g in range(video.frames):
            for m in range(video.each):
                if segment[g] == segment[f] and (g, m) not in salient[g] and joined:
                    token = video.own[g][m]
                    far = {a: 1 - cosine(token, video.at(a)) for a in sorted(anchors[f])}
                    joined[video.nearest(far)].append(token)
        for anchor, tokens in joined.items():
            kept[anchor] = 0.6 * video.at(anchor) + 0.4 * sum(tokens) / len(tokens)
    return video.result(kept)


@slow("frame-density")
def frame_density(item: SlowItem) -> Found:
    video, kept = Video(item), {}
    means = {f: frame.mean(0) for f, frame in enumerate(video.own)}
    scores = {(f, 0): score for f, score in video.density(means, 7).items()}
    centres = [f for f, _ in video.first(scores, max(1, int(video.frames * 0.25)))]
    labels = []
    for f in means:
        far = {c: float((means[f] - means[c]).square().mean()) for c in sorted(centres)}
        labels.append(f if f in centres else video.nearest(far))
    segment = [0]
    for before, after in pairwise(labels):
        segment.append(segment[-1] + (before != after))
    likeness = {}
    for f in range(video.frames):
        window = [g for g in range(video.frames) if segment[g] == segment[f]]
        for m in range(video.each):
            pairs = [
                cosine(video.own[a][m], video.own[b][m]) for a in window for b in window if a != b
            ]
            likeness[f, m] = sum(pairs) / len(pairs) if pairs else 0.0
    for (_, points), count in zip(*video.stand_still(segment, likeness), strict=True):
        chosen = video.first(video.density(points, 7), count) if count else []
        for centre, members in video.clusters(points, sorted(chosen)).items():
            kept[centre] = sum(points[cell] for cell in members) / len(members)
    return video.result(kept)


def saved(still: list[list[bool]], lengths: list[int]) -> int:
    """Tokens saved by segments of these lengths."""
    total, start = 0, 0
    for length in lengths:
        steps = still[start : start + length - 1]
        total += (length - 1) * sum(map(all, zip(*steps, strict=True))) if steps else 0
        start += length
    return total


def all_lengths(frames: int) -> list[list[int]]:
    if not frames:
        return [[]]
    return [[*rest, n] for n in range(1, frames + 1) for rest in all_lengths(frames - n)]


@slow("vision-attention-still")
def still_cells(item: SlowItem) -> Found:
    """Of all ways to cut, the first that saves the most: shorter segments win from the end on."""
    video, kept = Video(item), {}
    alike = [
        [cosine(a, b) for a, b in zip(one, other, strict=True)]
        for one, other in pairwise(video.own)
    ]
    still = [[video.above(value, 0.8) for value in row] for row in alike]
    lengths = max(all_lengths(video.frames), key=lambda way: saved(still, way))
    segment = [number for number, length in enumerate(lengths) for _ in range(length)]
    likeness = {
        (f, m): min(
            (alike[g][m] for g in range(video.frames - 1) if segment[g] == segment[g + 1] == s),
            default=2.0,
        )
        for f, s in enumerate(segment)
        for m in range(video.each)
    }
    attention = video.attention()
    for (is_still, points), count in zip(*video.stand_still(segment, likeness), strict=True):
        if not is_still:
            chosen = video.first({cell: attention[cell] for cell in points}, count)
            kept |= {cell: points[cell] for cell in chosen}
            continue
        chosen = video.first(video.density(points, 7), count) if count else []
        for centre, members in video.clusters(points, sorted(chosen)).items():
            others = [points[cell] for cell in members if cell != centre]
            kept[centre] = points[centre]
            if others:
                kept[centre] = 0.6 * points[centre] + 0.4 * sum(others) / len(others)
    return video.result(kept)


@slow("vision-attention-trees")
def trees_over_time(item: SlowItem) -> Found:
    video, kept = Video(item), {}
    attention, segment = video.attention(), video.cut(video.alike(), 8)
    chosen: dict[int, list[int]] = {}
    number = {f: -(-7 * video.budget(f) // 10) for f in range(video.frames)}
    for f in range(video.frames):
        means = [video.own[g].mean(0) for g in range(video.frames) if segment[g] == segment[f]]
        weight = [
            attention[f, m] * sum(float(video.own[f][m] @ mean) for mean in means) / len(means)
            for m in range(video.each)
        ]

        def apart(i: int, j: int, frame: Tensor = video.own[f], by: list[float] = weight) -> float:
            return 0.0 if i == j else (1 - cosine(frame[i], frame[j])) * by[j]

        chosen[f] = []
        while len(chosen[f]) < number[f]:
            left = [m for m in range(video.each) if m not in chosen[f]]
            if chosen[f]:
                nearest = {(f, j): min(apart(i, j) for i in chosen[f]) for j in left}
            else:
                nearest = {
                    (f, j): sorted(apart(i, j) for i in range(video.each))[min(1, video.each - 1)]
                    for j in left
                }
            chosen[f].append(video.first(nearest, 1)[0][1])
        kept |= {(f, m): video.own[f][m] for m in chosen[f]}
    parent: dict[Cell, Cell] = {}
    for f in range(1, video.frames):
        before = [m for m in range(video.each) if m not in chosen[f - 1]]
        closest: dict[Cell, float] = {}
        here: dict[Cell, Cell] = {}
        for m in range(video.each):
            if m not in chosen[f] and before and segment[f] == segment[f - 1]:
                far = {(f - 1, b): 1 - cosine(video.own[f][m], video.own[f - 1][b]) for b in before}
                here[f, m] = video.nearest(far)
                closest[f, m] = 1 - far[here[f, m]]
        best = video.first(closest, video.each - video.budget(f))
        parent |= {cell: here[cell] for cell in best if video.above(closest[cell], 0.8)}
    trees: dict[Cell, list[Tensor]] = {}
    for f in range(video.frames):
        for m in range(video.each):
            root = (f, m)
            while root in parent:
                root = parent[root]
            trees.setdefault(root, []).append(video.own[f][m])
    roots = [
        {
            (f, m): sum(trees[f, m]) / len(trees[f, m])
            for m in range(video.each)
            if m not in chosen[f] and (f, m) in trees and (f, m) not in parent
        }
        for f in range(video.frames)
    ]
    for start in range(0, video.frames, video.in_set):
        here_frames = range(start, start + video.in_set)
        spare = sum(video.budget(f) - number[f] for f in here_frames)
        counts = video.deal(spare, [len(roots[f]) for f in here_frames])
        for f, count in zip(here_frames, counts, strict=True):
            centres = video.first(video.density(roots[f], 7), count) if count else []
            for centre, members in video.clusters(roots[f], sorted(centres)).items():
                kept[centre] = sum(roots[f][cell] for cell in members) / len(members)
    return video.result(kept)
