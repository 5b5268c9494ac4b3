"""Ranking the candidates of a layer: every importance score that runs here, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aim_runtime.models.part import Part
from aim_runtime.models.rotary import key_heads, query_heads, rotated
from aim_runtime.reduction.chance import random_numbers
from aim_runtime.reduction.column_sums import column_importance
from aim_runtime.reduction.importance import pagerank_causal_importance, text_attention_importance
from aim_runtime.reduction.importance_kernel import token_importance
from aim_runtime.reduction.pivots import pivot_choice
from aim_runtime.reduction.text_rows import (
    question,
    question_importance,
    rater_importance,
    text_raters,
)


@dataclass(frozen=True)
class Entering:
    """The prompts of a batch as they enter the LLM.

    Args:
        embeds: [B, n, H].
        visual: bool [B, n].
        text: at least the text tokens of each row.
        padding: int64 [B], tokens of padding at the start of each row; None without any.
    """

    embeds: Tensor
    visual: Tensor
    text: int
    padding: Tensor | None


@dataclass(frozen=True)
class Choice:
    """A choice to be made among the visual tokens that a layer has.

    Args:
        visual, text, padding: as in Entering, of the tokens in the layer.
        candidates, stay: how many visual tokens there are, and how many of them stay; int64 [B, 1]
            on the host where rows differ.
        noted: [B, n], what the score noted of each token of the prompt; None if nothing.
    """

    visual: Tensor
    text: int
    padding: Tensor | None
    candidates: int | Tensor
    stay: int | Tensor
    noted: Tensor | None = None


@dataclass(frozen=True)
class Attended:
    """The attention of a layer, inside which its tokens are ranked.

    Args:
        query, key: [B, heads, n, d] and [B, kv_heads, n, d], after the rotary embedding.
        scaling: of q k^T in the layer.
    """

    choice: Choice
    query: Tensor
    key: Tensor
    scaling: float


@dataclass(frozen=True)
class Passed:
    """A layer that has run, before the next one: ``whole_layer`` scores rank its tokens here.

    Args:
        key: [B, kv_heads, n, d] of the layer.
        entered, left: hidden states [B, n, H] before and after the layer.
        following: the next layer; angles: its cos and sin, [B or 1, n, d].
        norm: the last norm of the decoder.
    """

    choice: Choice
    key: Tensor
    entered: Tensor
    left: Tensor
    following: Part
    angles: tuple[Tensor, Tensor]
    norm: Part


Rank = Callable[[Any], Tensor]
"""From Attended, or Passed for a ``whole_layer`` score: [B, n]."""

LAYER_IMPORTANCE: dict[str, Rank] = {}
"""Scores [B, n] of a layer's tokens, by the name that a schedule's ``prune.importance`` gives.

Those of candidates alone matter. No device sync; all work on meta.
"""

PROMPT_NOTES: dict[str, Callable[[Entering], Tensor]] = {}
"""What some of the scores note of each token of the prompt, once, [B, n]."""


def ranks(name: str, notes: Callable[[Entering], Tensor] | None = None) -> Callable[[Rank], Rank]:
    """Register the code of a score of ``aim_cost.ops.scores`` under its name."""

    def registered(rank: Rank) -> Rank:
        LAYER_IMPORTANCE[name] = rank
        if notes is not None:
            PROMPT_NOTES[name] = notes
        return rank

    return registered


@ranks("pagerank")
def _pagerank(at: Attended) -> Tensor:
    return token_importance(at.query, at.key, scaling=at.scaling, padding=at.choice.padding)


@ranks("pagerank-causal")
def _pagerank_causal(at: Attended) -> Tensor:
    return pagerank_causal_importance(
        at.query, at.key, scaling=at.scaling, padding=at.choice.padding
    )


@ranks("text-attention")
def _text_attention(at: Attended) -> Tensor:
    return text_attention_importance(
        at.query, at.key, scaling=at.scaling, padding=at.choice.padding
    )


@ranks("next-layer-query")
def _next_layer_query(at: Passed) -> Tensor:
    """The last token's row, of a query and of keys that are the next layer's before any leave."""
    attention = at.following.self_attn
    x, (cos, sin) = at.following.input_layernorm(at.left), at.angles
    query, key = query_heads(attention, x[:, -1:]), key_heads(attention, x)
    return text_attention_importance(
        rotated(query, cos[:, -1:], sin[:, -1:]),
        rotated(key, cos, sin),
        scaling=attention.scaling,
        padding=at.choice.padding,
    )


def _raters(at: Entering) -> Tensor:
    return text_raters(at.embeds, at.visual, at.text, at.padding)


@ranks("rater-attention", notes=_raters)
def _rater_attention(at: Attended) -> Tensor:
    assert at.choice.noted is not None
    return rater_importance(
        at.query,
        at.key,
        scaling=at.scaling,
        raters=at.choice.noted,
        visual=at.choice.visual,
        text=at.choice.text,
        padding=at.choice.padding,
    )


def _question(at: Entering) -> Tensor:
    return question(at.visual, at.text, at.padding)


@ranks("question-attention", notes=_question)
def _question_attention(at: Attended) -> Tensor:
    assert at.choice.noted is not None
    return question_importance(
        at.query,
        at.key,
        scaling=at.scaling,
        question=at.choice.noted,
        visual=at.choice.visual,
        text=at.choice.text,
        padding=at.choice.padding,
    )


@ranks("attention-columns", notes=_question)
def _attention_columns(at: Attended) -> Tensor:
    assert at.choice.noted is not None
    return column_importance(
        at.query,
        at.key,
        scaling=at.scaling,
        question=at.choice.noted,
        visual=at.choice.visual,
        padding=at.choice.padding,
    )


@ranks("pivot-similarity")
def _pivot_similarity(at: Passed) -> Tensor:
    stay = at.choice.stay
    if isinstance(stay, Tensor):
        stay = stay.to(at.choice.visual.device, non_blocking=True)
    return pivot_choice(at.norm(at.left), at.key, at.choice.visual, stay, at.choice.padding)


@ranks("layer-change")
def _layer_change(at: Passed) -> Tensor:
    """The Euclidean distance that a token has moved in the layer."""
    moved: Tensor = torch.linalg.vector_norm(at.left - at.entered, dim=-1, dtype=torch.float32)
    return moved


@ranks("random")
def _random(at: Attended) -> Tensor:
    """A draw by the number of candidates, so that a row fares alike in any batch."""
    rows = len(at.choice.visual)
    if isinstance(at.choice.candidates, int):
        drawn = random_numbers(rows, at.choice.candidates)
    else:
        counts = at.choice.candidates[:, 0].tolist()
        drawn = torch.zeros(rows, max(counts), device="cpu")
        for row, count in enumerate(counts):
            drawn[row, :count] = random_numbers(rows, count)[row]
    place = _place_among_candidates(at.choice.visual).clamp(max=drawn.shape[1] - 1)
    return drawn.to(at.choice.visual.device, non_blocking=True).gather(1, place)


@ranks("uniform")
def _uniform(at: Attended) -> Tensor:
    """1 for ``stay`` candidates at equal distances, 0 for the others."""
    place = _place_among_candidates(at.choice.visual)
    candidates, stay = (
        x.clamp(min=1).to(place.device, non_blocking=True) if isinstance(x, Tensor) else x
        for x in (at.choice.candidates, at.choice.stay)
    )
    before, after = ((p * stay + candidates // 2) // candidates for p in (place, place + 1))
    return (after > before).float()


def _place_among_candidates(visual: Tensor) -> Tensor:
    """int64 [B, n]: how many candidates stand before each; of other tokens anything in range."""
    return (visual.cumsum(dim=1) - 1).clamp_(min=0)
