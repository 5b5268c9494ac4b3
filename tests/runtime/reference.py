"""Slow, obvious code that the fast path must equal. See also aim_runtime.reference."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from aim_runtime.reduction.merge import random_pairs


def slow_sets(frame: Tensor, remove: int, by: str) -> list[list[int]]:
    """One merging pass over one frame [tokens, width]: which tokens become one, set by set.

    The first of each is the one that the others go into.
    """
    if by == "uniform":
        kept = len(frame) - remove
        ends = [i * len(frame) // kept for i in range(kept + 1)]
        return [list(range(start, end)) for start, end in pairwise(ends)]
    a = [frame[i] for i in range(0, len(frame), 2)]
    b = [frame[i] for i in range(1, len(frame), 2)]
    if by == "random":
        plan = random_pairs(frame[None], remove)
        order = [*plan.sources[0].tolist(), *plan.unmerged[0].tolist()]
        into = dict(zip(plan.sources[0].tolist(), plan.targets[0].tolist(), strict=True))
    else:
        order, into = most_similar(a, b)
    sets = [[2 * i + 1] for i in range(len(b))]
    for i in order[:remove]:
        sets[into[i]].append(2 * i)
    return [[2 * i] for i in order[remove:]] + sets


def most_similar(a: list[Tensor], b: list[Tensor]) -> tuple[list[int], dict[int, int]]:
    """The order of A by its best similarity to B, and the best of each."""
    matches = []
    for x in a:
        similarities = [float(x @ y / (x.norm() * y.norm())) for y in b]
        best = max(similarities)
        matches.append((best, similarities.index(best)))
    order = sorted(range(len(a)), key=lambda i: -matches[i][0])
    return order, {i: target for i, (_, target) in enumerate(matches)}


def slow_passes(
    frame: Tensor, counts: tuple[int, ...], by: str = "similarity"
) -> tuple[Tensor, list[int]]:
    """All passes over one frame, and of each token left its place before them."""
    frame, places, _ = slow_passes_alike(frame, torch.empty(0, len(frame), 0), counts, by)
    return frame, places


def slow_passes_alike(
    frame: Tensor, others: Tensor, counts: tuple[int, ...], by: str
) -> tuple[Tensor, list[int], Tensor]:
    """The same, and other features [levels, tokens, width] of the tokens averaged alike."""
    places = list(range(len(frame)))
    for before, after in pairwise(counts):
        sets = slow_sets(frame, before - after, by)
        places = [places[one[0]] for one in sets]
        frame = torch.stack([frame[one].mean(dim=0) for one in sets])
        others = torch.stack([others[:, one].mean(dim=1) for one in sets], dim=1)
    return frame, places, others


def slow_merge_tokens(features: Tensor, counts: tuple[int, ...], by: str = "similarity") -> Tensor:
    """All passes over all frames [frames, tokens, width]."""
    return torch.stack([slow_passes(frame, counts, by)[0] for frame in features])


def full_importance(query: Tensor, key: Tensor, scaling: float, iterations: int = 5) -> Tensor:
    """PageRank scores with all heads at once: query[B, h, n, d], key[B, kv, n, d] -> [B, n]."""
    heads, tokens = query.shape[1:3]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    logits = (query @ key.transpose(2, 3) * scaling).masked_fill(future, -torch.inf)
    transition = (logits / 0.1).softmax(-1)
    rank = torch.full((*query.shape[:2], 1, tokens), 1 / tokens, dtype=query.dtype)
    for _ in range(iterations):
        rank = rank @ transition
    return rank.pow(2).mean(1).sqrt()[:, 0]


class Embedded(NamedTuple):
    """Prompts as the language model should get them: embeds[B, n, H], visual[B, n] and, if merged
    tokens keep them, positions[B, n]."""

    embeds: Tensor
    visual: Tensor
    positions: Tensor


def embedded_video(
    llava: LlavaOnevisionForConditionalGeneration,
    inputs: dict[str, Tensor],
    counts: tuple[int, ...],
    by: str = "similarity",
) -> Embedded:
    """Prompts with as many videos each, as the processor writes them, merged slowly."""
    ids, videos = inputs["input_ids"], list(inputs["pixel_values_videos"])
    each = len(videos) // len(ids)
    rows = [
        _embedded_row(llava, row, videos[i * each : (i + 1) * each], counts, by)
        for i, row in enumerate(ids)
    ]
    return Embedded(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def _embedded_row(
    llava: LlavaOnevisionForConditionalGeneration,
    row: Tensor,
    videos: list[Tensor],
    counts: tuple[int, ...],
    by: str,
) -> Embedded:
    embeds, visual, positions = [], [], []
    text, place = llava.get_input_embeddings()(row), 0
    while place < len(row):
        if row[place] != llava.config.video_token_id:
            embeds.append(text[place])
            visual.append(False)
            positions.append(place)
            place += 1
            continue
        for frame in pooled_frames(llava, videos.pop(0)):
            merged, places = slow_passes(frame, counts, by)
            embeds += list(merged)
            visual += [True] * len(merged)
            positions += [place + p for p in places]
            place += counts[0]
        embeds.append(llava.model.image_newline)
        visual.append(True)
        positions.append(place)
        place += 1
    return Embedded(torch.stack(embeds), torch.tensor(visual), torch.tensor(positions))


def pooled_frames(llava: LlavaOnevisionForConditionalGeneration, video: Tensor) -> Tensor:
    """[frames, tokens, H] of one video."""
    patches = llava.model.vision_tower(video, output_hidden_states=True).hidden_states[-1]
    return type(llava.model).apply_pooling(llava.model, llava.model.multi_modal_projector(patches))
