"""A slow second opinion: the same schedule by masks, in plain tensor algebra.

Nothing is dropped: every layer computes all tokens, and a dropped token is one that others may not
attend to. No code is shared with the fast path.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from aim_cost.schedules.trace import TokenTrace
from aim_runtime.models.part import Part


@dataclass(frozen=True)
class SeenLayer:
    """One layer as the reference computed it, for a score to rank the tokens.

    Args:
        embeds: [n, H], the prompt.
        entered, left: [n, H], hidden states before and after the layer.
        normed: [n, H], ``left`` under the decoder's last norm.
        key: [h, n, d], after the rotary embedding.
        logits: [h, n, n], masked: causal, and dropped tokens see and are seen by nobody.
        kept: bool [n], the tokens that entered; visual: bool [n].
        stay: how many visual tokens go on.
        following: gives the masked logits of the next layer, if nothing left before it.
        decide: takes the relative distance of a decision that the score makes itself.
    """

    embeds: Tensor
    entered: Tensor
    left: Tensor
    normed: Tensor
    key: Tensor
    logits: Tensor
    kept: Tensor
    visual: Tensor
    stay: int
    following: Callable[[], Tensor]
    decide: Callable[[float], None]


SlowScore = Callable[[SeenLayer], Tensor]
"""Scores [n] of which those of visual tokens that were kept matter."""


class Reference:
    """The weights of a Qwen2, Qwen3 or Llama, run one prompt at a time with masks.

    Args:
        decoder: the language model without its head; head: the linear map to logits.
        scores: by the names of schedules; REFERENCE_SCORES without them.
    Shapes: n tokens, H hidden, h heads, V vocabulary; a mask is bool [n], True where kept.
    ``added`` [levels, n, H] of a prompt is what DeepStack adds after the first layers, zero at
    text; None without it.
    ``smallest_margin``: relative distance of the scores of the last token that stayed and the
    first that went, the closest decision of the last call of ``kept``.
    """

    def __init__(
        self, decoder: Part, head: Part, scores: Mapping[str, SlowScore] | None = None
    ) -> None:
        config = decoder.config
        self._scores = REFERENCE_SCORES if scores is None else scores
        self.smallest_margin = math.inf
        self._weights: dict[str, Tensor] = {
            f"model.{name}": x for name, x in decoder.state_dict().items()
        }
        self._weights["lm_head.weight"] = head.weight
        self._layers = config.num_hidden_layers
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._eps, self._theta = config.rms_norm_eps, config.rope_parameters["rope_theta"]
        self._sections = config.rope_parameters.get("mrope_section")
        self._interleaved = bool(config.rope_parameters.get("mrope_interleaved"))

    def kept(
        self,
        embeds: Tensor,
        visual: Tensor,
        trace: TokenTrace,
        *,
        positions: Tensor | None = None,
        added: Tensor | None = None,
    ) -> list[Tensor]:
        """What each layer sees under a schedule, and what is left after the last.

        Args: embeds[n, H]; visual[n] bool; trace, which counts to leave and which score decides;
            positions[n] for the rotary embedding, or [3, n] for one on three axes, 0 .. n - 1
            without them.
        """
        kept = [torch.ones_like(visual)]
        self.smallest_margin = math.inf
        x, score, text = embeds, self._scores[trace.importance], int((~visual).sum())
        entering = (*trace.attention_tokens[1:], trace.mlp_tokens[-1])
        for layer, after in enumerate(map(min, trace.mlp_tokens, entering)):
            entered = x
            x, key, logits = self._layer(layer, x, kept[-1], positions)
            x = _stacked(layer, x, added)
            seen = SeenLayer(
                embeds=embeds,
                entered=entered,
                left=x,
                normed=self._norm(x, "model.norm"),
                key=key,
                logits=logits,
                kept=kept[-1],
                visual=visual,
                stay=after - text,
                following=partial(self._attention_logits, layer + 1, x, kept[-1], positions),
                decide=self._decide,
            )
            kept.append(self._keep_best(seen, score))
        return kept

    def logits(
        self,
        embeds: Tensor,
        kept: Sequence[Tensor],
        *,
        positions: Tensor | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """[n, V] of embeds[n, H] where layer l attends to kept[l]; dropped rows mean nothing."""
        x = embeds
        for layer in range(self._layers):
            x, *_ = self._layer(layer, x, kept[layer], positions)
            x = _stacked(layer, x, added)
        return self._norm(x, "model.norm") @ self._weights["lm_head.weight"].T

    def generate(
        self,
        embeds: Tensor,
        kept: Sequence[Tensor],
        new_tokens: int,
        *,
        positions: Tensor | None = None,
        added: Tensor | None = None,
    ) -> list[int]:
        """Greedy tokens; each step recomputes everything, and every layer sees all new tokens."""
        tokens: list[int] = []
        for _ in range(new_tokens):
            logits = self.logits(embeds, kept, positions=positions, added=added)
            tokens.append(int(logits[-1].argmax()))
            new = self._weights["model.embed_tokens.weight"][tokens[-1]]
            embeds = torch.cat([embeds, new[None]])
            kept = [torch.cat([mask, mask.new_ones(1)]) for mask in kept]
            if added is not None:
                added = functional.pad(added, (0, 0, 0, 1))
            if positions is not None:
                positions = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
        return tokens

    def _decide(self, margin: float) -> None:
        self.smallest_margin = min(self.smallest_margin, margin)

    def _keep_best(self, seen: SeenLayer, score: SlowScore) -> Tensor:
        candidates, stay = (seen.kept & seen.visual).nonzero()[:, 0], seen.stay
        order = torch.arange(len(candidates), device=candidates.device)
        if 0 < stay < len(order):
            scores = score(seen)[candidates]
            order = scores.sort(descending=True, stable=True).indices
            worst, loser = scores[order[stay - 1]], scores[order[stay]]
            self._decide(float((worst - loser) / worst))
        result = ~seen.visual
        result[candidates[order[:stay]]] = True
        return result

    def _layer(
        self, layer: int, x: Tensor, kept: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x[n, H] after the layer, its keys [h, n, d] and its masked attention logits [h, n, n]."""
        name = f"model.layers.{layer}"
        normed = self._norm(x, f"{name}.input_layernorm")
        q, k, v = (self._linear(normed, f"{name}.self_attn.{p}_proj") for p in "qkv")
        q, k = _split(q, self._heads), _split(k, self._kv_heads)
        if f"{name}.self_attn.q_norm.weight" in self._weights:  # of each head
            q, k = (self._norm(x, f"{name}.self_attn.{p}_norm") for x, p in ((q, "q"), (k, "k")))
        groups = self._heads // self._kv_heads
        q, k = self._rotate(q, positions), self._rotate(k, positions)
        k = k.repeat_interleave(groups, dim=0)
        v = _split(v, self._kv_heads).repeat_interleave(groups, dim=0)
        n = len(x)
        # a dropped token sees itself, so that no row is empty; nobody else sees it
        allowed = kept | torch.eye(n, dtype=torch.bool, device=x.device)
        allowed = allowed & torch.ones_like(allowed).tril()
        logits = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf)
        mixed = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + self._linear(mixed, f"{name}.self_attn.o_proj")
        normed = self._norm(x, f"{name}.post_attention_layernorm")
        gate, up = (self._linear(normed, f"{name}.mlp.{p}_proj") for p in ("gate", "up"))
        x = x + self._linear(gate.sigmoid() * gate * up, f"{name}.mlp.down_proj")
        return x, k, logits

    def _attention_logits(
        self, layer: int, x: Tensor, kept: Tensor, positions: Tensor | None
    ) -> Tensor:
        return self._layer(layer, x, kept, positions)[2]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        y = x @ self._weights[f"{name}.weight"].T
        bias = self._weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale: Tensor = (x.pow(2).mean(-1, keepdim=True) + self._eps).rsqrt()
        return x * scale * self._weights[f"{name}.weight"]

    def _rotate(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Rotary embedding of x[h, n, d] at positions[n] or [3, n], or 0 .. n - 1."""
        half = x.shape[-1] // 2
        frequency = self._theta ** (-torch.arange(half, device=x.device) / half)
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        on_axes = positions.dim() == 2
        positions = positions[self._axes(half)].T if on_axes else positions[:, None]
        angle = positions * frequency
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def _axes(self, half: int) -> list[int]:
        """The axis by which each of ``half`` frequencies turns: in sections, or in turn."""
        if not self._interleaved:
            return [axis for axis, many in enumerate(self._sections) for _ in range(many)]
        return [
            number % 3 if number < 3 * self._sections[number % 3] else 0 for number in range(half)
        ]


def _stacked(layer: int, x: Tensor, added: Tensor | None) -> Tensor:
    """x[n, H] after ``layer``, with what DeepStack adds there."""
    return x if added is None or layer >= len(added) else x + added[layer]


def _pagerank(at: SeenLayer) -> Tensor:
    """Five steps, started from the tokens that are kept."""
    transition = (at.logits.float() / 0.1).softmax(-1)
    rank = (at.kept.float() / at.kept.sum()).expand(len(at.logits), 1, -1)
    for _ in range(5):
        rank = rank @ transition
    return rank.pow(2).mean(0).sqrt()[0]


REFERENCE_SCORES: dict[str, SlowScore] = {"pagerank": _pagerank}
"""AIM's own; the tests have one for each score that runs."""


def _split(x: Tensor, heads: int) -> Tensor:
    """[n, h * d] -> [h, n, d]."""
    parts: Tensor = x.unflatten(-1, (heads, -1))
    return parts.transpose(0, 1)
