"""Prompts: a clip followed by one question or by many."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration

from aim_runtime.tiny.model import PREFIX, video_embeddings
from aim_runtime.tiny.questions import QUESTION_WORDS, WORD_ID

_BLOCK = QUESTION_WORDS + 1  # and <assistant>, whose logits answer

TEXT_TOKENS = len(PREFIX) + _BLOCK
"""Of a prompt with one question, whatever it asks."""


def packed_logits(
    model: LlavaOnevisionForConditionalGeneration, features: Tensor, questions: Tensor
) -> Tensor:
    """The logits of the answers to several questions after each clip, none of which sees another.

    Shapes: features[B, F, tokens, hidden], questions[B, Q, 5] -> [B, Q, vocabulary]. Equal to one
    prompt a question: positions of every question start right after the clip, and a mask keeps
        questions apart.
    """
    batch, count, _ = questions.shape
    embed = model.get_input_embeddings()
    visual = video_embeddings(model, features)
    ask = torch.cat([questions, torch.full_like(questions[..., :1], WORD_ID["<assistant>"])], -1)
    parts = [_prefix(embed, batch), visual, embed(ask).flatten(1, 2)]
    embeddings = torch.cat(parts, dim=1)
    seen = len(PREFIX) + visual.shape[1]
    blocks = torch.arange(count * _BLOCK) // _BLOCK
    together = blocks[:, None] == blocks[None, :]
    mask = torch.ones(embeddings.shape[1], embeddings.shape[1], dtype=torch.bool).tril()
    mask[seen:, seen:] &= together
    positions = torch.cat([torch.arange(seen), seen + torch.arange(count * _BLOCK) % _BLOCK])
    hidden = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask.expand(batch, 1, -1, -1),
        position_ids=positions.expand(batch, -1),
        use_cache=False,
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, seen + _BLOCK - 1 :: _BLOCK])
    return logits


def prompt_ids(question: Sequence[int], visual_tokens: int) -> Tensor:
    """The ids [1, n] that the whole model takes, placeholders included."""
    video = [WORD_ID["<video>"]] * visual_tokens
    return torch.tensor([[*PREFIX, *video, *question, WORD_ID["<assistant>"]]])


def _prefix(embed: nn.Module, batch: int) -> Tensor:
    embedded: Tensor = embed(torch.tensor(PREFIX))
    return embedded.expand(batch, -1, -1)
