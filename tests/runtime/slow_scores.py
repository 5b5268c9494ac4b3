"""A slow second opinion on each score that runs, for one prompt: what Reference ranks tokens by."""

import torch
from torch import Tensor

from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.schedules.prune import DROP_POINTS
from aim_runtime.reduction.chance import random_numbers
from aim_runtime.reduction.scores import LAYER_IMPORTANCE
from aim_runtime.reference import REFERENCE_SCORES, SeenLayer

SLOW_SCORES = dict(REFERENCE_SCORES)
RANKINGS = [
    {"importance": name, "drop_point": point}
    for name in LAYER_IMPORTANCE
    for point in DROP_POINTS
    if point == "layer" or not LAYER_SCORES[name].whole_layer
]
"""All pairs of a score that runs and a place where tokens leave, as fields of Prune."""

ANYWHERE = [ranking for ranking in RANKINGS if ranking["importance"] != "pivot-similarity"]
"""Those that a shift of all positions does not change: L1 norms of rotated keys do change."""


def slow(name):
    """Register the slow reference of a score under its name."""

    def registered(score):
        SLOW_SCORES[name] = score
        return score

    return registered


@slow("pagerank-causal")
def pagerank_causal(at: SeenLayer) -> Tensor:
    """The mean of each column over the kept rows that see it."""
    transition = (at.logits.float() / 0.1).softmax(-1)[:, at.kept]
    rows_from = at.kept.flip(0).cumsum(0).flip(0)
    return (transition.sum(1) / rows_from).pow(2).mean(0).sqrt()


@slow("text-attention")
def text_attention(at: SeenLayer) -> Tensor:
    """The last row, mean over heads."""
    return at.logits[:, -1].float().softmax(-1).mean(0)


@slow("next-layer-query")
def next_layer_query(at: SeenLayer) -> Tensor:
    """The last row of the next layer, as if nothing left before it."""
    return at.following()[:, -1].float().softmax(-1).mean(0)


def asking(at: SeenLayer) -> list[int]:
    """The text after the last visual token of the prompt, or all text."""
    text = (~at.visual).nonzero()[:, 0].tolist()
    last = int(at.visual.nonzero()[-1])
    return [place for place in text if place > last] or text


@slow("question-attention")
def question_attention(at: SeenLayer) -> Tensor:
    """The greatest entry of a column, over the rows of the question and over heads."""
    rows = [
        at.logits[head, place].float().softmax(-1)
        for head in range(len(at.logits))
        for place in asking(at)
    ]
    return torch.stack(rows).max(0).values


@slow("attention-columns")
def attention_columns(at: SeenLayer) -> Tensor:
    """Column means over the visual rows that are left, times column sums over the question."""
    strongest = at.logits.float().softmax(-1).max(0).values
    visual = (at.kept & at.visual).nonzero()[:, 0].tolist()
    own = torch.stack([strongest[place] for place in visual]).mean(0)
    return own * torch.stack([strongest[place] for place in asking(at)]).sum(0)


@slow("rater-attention")
def rater_attention(at: SeenLayer) -> Tensor:
    """Raters by the embeddings, then the mean of their rows."""
    asked = asking(at)
    shares = torch.zeros(len(asked))
    for place in at.visual.nonzero()[:, 0].tolist():
        logits = torch.stack([at.embeds[place] @ at.embeds[other] for other in asked])
        shares += logits.softmax(0)
    shares /= int(at.visual.sum())
    mean = 1 / len(asked)
    raters = [place for place, share in zip(asked, shares.tolist(), strict=True) if share > mean]
    if len(asked) > 1:
        at.decide(float((shares - mean).abs().min()) / mean)
    rows = [at.logits[:, place].float().softmax(-1).mean(0) for place in raters or asked]
    return torch.stack(rows).mean(0)


@slow("pivot-similarity")
def pivot_similarity(at: SeenLayer) -> Tensor:
    """Each pivot in turn takes its part of what is left, the least similar first."""
    norms = at.key.abs().sum((0, 2)).tolist()  # repeated heads change no order

    def by_norm(places: list[int], count: int) -> list[int]:
        order = sorted(places, key=lambda place: -norms[place])
        if 0 < count < len(order):
            most, next_one = (norms[order[count - 1 + step]] for step in (0, 1))
            at.decide((most - next_one) / most)
        return order[:count]

    candidates = (at.kept & at.visual).nonzero()[:, 0].tolist()
    text, last = (~at.visual).nonzero()[:, 0].tolist(), int(at.visual.nonzero()[-1])
    after = [place for place in text if place > last]
    stay = by_norm(candidates, min(4, at.stay))
    heard = by_norm(after, min(4, len(after)))
    heard += by_norm([place for place in text if place < last], 4 - len(heard))
    free = [place for place in candidates if place not in stay]
    pivots, rest = 4 + len(heard), at.stay - len(stay)
    taken = 0
    for turn, pivot in enumerate([*stay[:4], *heard]) if rest else ():
        part = rest * (turn + 1) // pivots - taken
        taken += part
        cosine = {
            place: float(torch.cosine_similarity(at.normed[pivot], at.normed[place], dim=0))
            for place in free
        }
        order = sorted(free, key=cosine.get)
        if 0 < part < len(order):
            at.decide(cosine[order[part]] - cosine[order[part - 1]])
        stay += order[:part]
        free = [place for place in free if place not in order[:part]]
    scores = torch.zeros(len(at.kept))
    scores[stay] = 1
    return scores


@slow("layer-change")
def layer_change(at: SeenLayer) -> Tensor:
    """How far each token's hidden state moved."""
    return (at.left - at.entered).pow(2).sum(1).sqrt()


@slow("random")
def random(at: SeenLayer) -> Tensor:
    """The draw of as many candidates, in their order."""
    candidates = at.kept & at.visual
    scores = torch.zeros(len(candidates))
    scores[candidates] = random_numbers(1, int(candidates.sum()))[0]
    return scores


@slow("uniform")
def uniform(at: SeenLayer) -> Tensor:
    """1 for the middle of each of ``stay`` equal runs of candidates."""
    places = (at.kept & at.visual).nonzero()[:, 0].tolist()
    scores = torch.zeros(len(at.kept))
    for run in range(at.stay):
        # the candidate in which the middle of the run lies, the earlier one of two
        middle = -(-((2 * run + 1) * len(places)) // (2 * at.stay)) - 1
        scores[places[middle]] = 1
    return scores
