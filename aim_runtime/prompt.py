"""Prompt: which tokens of a prompt are visual, as the LLM will see it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from aim_cost.workload import VisualInput
from aim_runtime.errors import PatchError


@dataclass(frozen=True)
class Prompt:
    """Equal prompts of a batch.

    Args:
        visual_mask: bool [B, n] on the host, True at visual tokens; rows may place them
            differently, but hold the same number.
        visual: how the visual tokens come about, for ``Schedule.resolve_visual``.
    Raises: PatchError when there are no visual tokens, unequal counts, or no text at the end.
    """

    visual_mask: Tensor
    visual: VisualInput

    def __post_init__(self) -> None:
        check_visual_mask(self.visual_mask, "prompt")

    @property
    def tokens(self) -> int:
        return self.visual_mask.shape[1]

    @property
    def text_tokens(self) -> int:
        return self.tokens - int(self.visual_mask[0].sum())

    def expand(self, batch: int) -> "Prompt":
        """Repeat each row as ``generate`` does for beams and several sequences a prompt."""
        copies = max(1, batch // self.visual_mask.shape[0])
        return Prompt(self.visual_mask.repeat_interleave(copies, dim=0), self.visual)


def embedded_prompt(visual_mask: Tensor) -> Prompt:
    """A prompt given as embeddings: its visual tokens are one group that is not merged."""
    check_visual_mask(visual_mask, "visual_mask")
    mask = visual_mask.cpu()
    return Prompt(mask, VisualInput(groups=1, group_tokens=int(mask[0].sum()), newline_tokens=0))


def check_visual_mask(mask: Tensor, where: str) -> None:
    """Raises: PatchError unless ``mask`` is a usable visual mask (see Prompt)."""

    def refuse(expected: str, got: object, fix: str) -> PatchError:
        return PatchError(where, expected=expected, got=got, fix=fix)

    form = "a bool tensor [batch, prompt tokens] with values, True at visual tokens"
    if not isinstance(mask, Tensor) or mask.is_meta or mask.dtype != torch.bool or mask.dim() != 2:
        got = f"{type(mask).__name__} {getattr(mask, 'dtype', '')} {getattr(mask, 'shape', '')}"
        raise refuse(form, got, "Make the mask on the CPU or the device of the model.")
    counts = mask.sum(dim=1).tolist()
    if not counts or min(counts) == 0:
        raise refuse(
            "visual tokens in every prompt",
            f"{counts} visual tokens per prompt",
            "A schedule reduces visual tokens: give prompts with a video, or use the unpatched "
            "model.",
        )
    if len(set(counts)) > 1:
        raise refuse(
            "as many visual tokens in every prompt of a batch",
            f"{counts} visual tokens per prompt",
            "Run prompts of different size one by one.",
        )
    if bool(mask[:, -1].any()):
        raise refuse(
            "a text token at the end of the prompt, which predicts the first new token",
            "a visual token",
            "Put the question after the video.",
        )
