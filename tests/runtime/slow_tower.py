"""ToMe in a SigLIP tower, token by token: slow, obvious, in double precision, no shared code."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Token:
    """A vector, the places of the frame that it stands for, and its key in the layer at hand."""

    x: Tensor
    places: list[int]
    key: Tensor | None = None


def slow_tower(
    tower: nn.Module, frames: Tensor, remove: int, layers: range, proportional: bool
) -> tuple[Tensor, list[int]]:
    """frames[F, 3, side, side] -> what each place has after the last layer, [F, places, hidden].

    Also the tokens of a frame entering each layer and after the last.
    """
    tower = copy.deepcopy(tower).double()
    filled, counts = [], []
    for frame in frames.double():
        patches = tower.embeddings.patch_embedding(frame[None])[0].flatten(1).T
        placed = patches + tower.embeddings.position_embedding.weight
        tokens, counts = [Token(x, [i]) for i, x in enumerate(placed)], []
        for number, layer in enumerate(tower.encoder.layers):
            counts.append(len(tokens))
            _attend(layer, tokens, proportional)
            if number in layers:
                tokens = _merge(tokens, remove)
            for token in tokens:
                token.x = token.x + layer.mlp(layer.layer_norm2(token.x))
        counts.append(len(tokens))
        at = {place: token.x for token in tokens for place in token.places}
        filled.append(torch.stack([at[place] for place in range(len(placed))]))
    return torch.stack(filled), counts


def _attend(layer: nn.Module, tokens: list[Token], proportional: bool) -> None:
    attention = layer.self_attn
    normed = [layer.layer_norm1(token.x) for token in tokens]
    queries, keys, values = (
        [project(x).view(attention.num_heads, -1) for x in normed]
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    for token, key in zip(tokens, keys, strict=True):
        token.key = key.mean(dim=0)
    mixed = []
    for query in queries:
        heads = []
        for head in range(attention.num_heads):
            weights = []
            for token, key in zip(tokens, keys, strict=True):
                weight = math.exp(float(query[head] @ key[head]) / math.sqrt(len(query[head])))
                weights.append(weight * (len(token.places) if proportional else 1))
            total = sum(weights)
            parts = [w / total * v[head] for w, v in zip(weights, values, strict=True)]
            heads.append(torch.stack(parts).sum(dim=0))
        mixed.append(attention.out_proj(torch.cat(heads)))
    for token, x in zip(tokens, mixed, strict=True):
        token.x = token.x + x


def _merge(tokens: list[Token], remove: int) -> list[Token]:
    first, second = tokens[::2], tokens[1::2]
    pairs = []
    for one in first:
        likeness = [float(torch.cosine_similarity(one.key, two.key, dim=0)) for two in second]
        best = max(range(len(second)), key=likeness.__getitem__)
        pairs.append((likeness[best], one, best))
    pairs.sort(key=lambda pair: -pair[0])
    takers = [[two] for two in second]
    for _, one, best in pairs[:remove]:
        takers[best].append(one)
    joined = []
    for group in takers:
        sizes = [len(token.places) for token in group]
        x = sum(n * token.x for n, token in zip(sizes, group, strict=True)) / sum(sizes)
        joined.append(Token(x, [place for token in group for place in token.places]))
    return [one for _, one, _ in pairs[remove:]] + joined
