"""Slow, obvious code that the fast path must equal. See also aim_runtime.reference."""

from itertools import pairwise

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2ForCausalLM


def slow_merge(frame: Tensor, remove: int) -> Tensor:
    """One merging pass over one frame [tokens, width], token by token."""
    a = [frame[i] for i in range(0, len(frame), 2)]
    b = [frame[i] for i in range(1, len(frame), 2)]
    matches = []
    for x in a:
        similarities = [float(x @ y / (x.norm() * y.norm())) for y in b]
        best = max(similarities)
        matches.append((best, similarities.index(best)))
    order = sorted(range(len(a)), key=lambda i: -matches[i][0])
    groups = [[y] for y in b]
    for i in order[:remove]:
        groups[matches[i][1]].append(a[i])
    means = [torch.stack(group).mean(dim=0) for group in groups]
    return torch.stack([a[i] for i in order[remove:]] + means)


def slow_merge_tokens(features: Tensor, counts: tuple[int, ...]) -> Tensor:
    """All passes over all frames [frames, tokens, width]."""
    for before, after in pairwise(counts):
        features = torch.stack([slow_merge(frame, before - after) for frame in features])
    return features


def full_importance(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """PageRank scores with all heads at once: query[B, h, n, d], key[B, kv, n, d] -> [B, n]."""
    heads, tokens = query.shape[1:3]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    logits = (query @ key.transpose(2, 3) * scaling).masked_fill(future, -torch.inf)
    transition = (logits / 0.1).softmax(-1)
    rank = torch.full((*query.shape[:2], 1, tokens), 1 / tokens, dtype=query.dtype)
    for _ in range(5):
        rank = rank @ transition
    return rank.pow(2).mean(1).sqrt()[:, 0]


def language_model(llava: LlavaOnevisionForConditionalGeneration) -> Qwen2ForCausalLM:
    """The language model of a LLaVA-OneVision as a model of its own, with the same weights."""
    model = Qwen2ForCausalLM(llava.config.text_config).eval()
    model.model.load_state_dict(llava.model.language_model.state_dict())
    model.lm_head.load_state_dict(llava.lm_head.state_dict())
    return model


def embedded_video(
    llava: LlavaOnevisionForConditionalGeneration,
    inputs: dict[str, Tensor],
    counts: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """embeds[B, n, H] and visual[B, n] as the language model should get them, merged slowly."""
    pixels, ids = inputs["pixel_values_videos"], inputs["input_ids"]
    embeds, masks = [], []
    for row, video in zip(ids, pixels, strict=True):
        patches = llava.model.vision_tower(video, output_hidden_states=True).hidden_states[-1]
        pooled = llava.model.apply_pooling(llava.model.multi_modal_projector(patches))
        merged = slow_merge_tokens(pooled, counts).flatten(0, 1)
        visual = torch.cat([merged, llava.model.image_newline[None]])
        where = (row == llava.config.video_token_id).nonzero()[:, 0]
        text = llava.get_input_embeddings()(row)
        before, after = text[: where[0]], text[where[-1] + 1 :]
        embeds.append(torch.cat([before, visual, after]))
        masks.append(
            torch.tensor([False] * len(before) + [True] * len(visual) + [False] * len(after))
        )
    return torch.stack(embeds), torch.stack(masks)
