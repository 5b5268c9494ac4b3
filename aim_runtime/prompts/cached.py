"""Cached: a prompt in a KV cache, as the tokens after it have to know it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aim_runtime.prompts.prompt import Prompt


@dataclass(frozen=True)
class Cached:
    """A prompt in a KV cache.

    Args:
        lengths: tokens that each layer holds of it.
        padding: [B] of each layer, where rows differ.
        keeps_positions: whether merging left tokens the positions that they had.
        needs_patch: whether only a patched model goes on from it as it should.
        last_position: [B or 1, 1], of the prompt's last token.
        highest_position: [B or 1, 1], of any token; on three axes a video may go beyond the text
            after it.
    """

    prompt: Prompt
    lengths: tuple[int, ...]
    padding: list[Tensor]
    keeps_positions: bool
    needs_patch: bool
    last_position: Tensor
    highest_position: Tensor

    def take(self, rows: Sequence[int]) -> "Cached":
        """Some of its rows, in this order; a row may come several times."""

        def taken(x: Tensor) -> Tensor:
            return x if len(x) == 1 else x[torch.tensor(rows, device=x.device)]

        return replace(
            self,
            prompt=self.prompt.take(rows),
            padding=[taken(one) for one in self.padding],
            last_position=taken(self.last_position),
            highest_position=taken(self.highest_position),
        )

    @property
    def deltas(self) -> Tensor:
        """How far positions after the prompt are ahead of its tokens, [B, 1].

        So Qwen2-VL counts them: ``rope_deltas``.
        """
        prompt = self.prompt
        before = prompt.caller_padding
        padding = torch.zeros(1, 1, device="cpu") if before is None else before[:, None]
        return (
            self.highest_position + 1 - (prompt.caller_tokens - padding).to(self.highest_position)
        )
