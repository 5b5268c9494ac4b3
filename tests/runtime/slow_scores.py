"""A slow second opinion on each score that runs, for one prompt: what Reference ranks tokens by."""

import torch
from torch import Tensor

from aim_runtime.reduction.chance import random_numbers
from aim_runtime.reference import REFERENCE_SCORES, SeenLayer

SLOW_SCORES = dict(REFERENCE_SCORES)


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
