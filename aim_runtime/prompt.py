"""Prompt: which tokens of a prompt are visual, as the LLM will see it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aim_cost.workload import VisualInput
from aim_runtime.errors import PatchError


@dataclass(frozen=True)
class Prompt:
    """The prompts of a batch.

    Args:
        visual_mask: bool [B, n] on the host, True at visual tokens; rows may place them
            differently, but hold the same number.
        visual: how the visual tokens come about, for ``Schedule.resolve_visual``.
        padding: int64 [B] on the host, tokens of padding at the start of each row; None without
            any. They count as text: no layer drops them.
    """

    visual_mask: Tensor
    visual: VisualInput
    padding: Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.visual_mask.shape[1]

    @property
    def text_tokens(self) -> int:
        return self.tokens - int(self.visual_mask[0].sum())

    def expand(self, batch: int) -> "Prompt":
        """Repeat each row as ``generate`` does for beams and several sequences a prompt."""
        copies = max(1, batch // self.visual_mask.shape[0])
        return replace(self, visual_mask=self.visual_mask.repeat_interleave(copies, dim=0))

    def padded(self, attention_mask: Tensor | None) -> "Prompt":
        """With the padding of a decoder's ``attention_mask`` [B, n].

        Raises: PatchError unless zeros stand at the start of a row, before its visual tokens.
        """
        return replace(self, padding=left_padding(attention_mask, self.visual_mask))


def text_prompt(batch: int, tokens: int) -> Prompt:
    """A prompt without visual tokens."""
    nothing = VisualInput(groups=0, group_tokens=0, newline_tokens=0)
    return Prompt(torch.zeros(batch, tokens, dtype=torch.bool), nothing)


def embedded_prompt(visual_mask: Tensor) -> Prompt:
    """A prompt given as embeddings: its visual tokens are one group that is not merged.

    Raises: PatchError, as ``check_visual_mask``.
    """
    check_visual_mask(visual_mask, "visual_mask")
    mask = visual_mask.cpu()
    return Prompt(mask, VisualInput(groups=1, group_tokens=int(mask[0].sum()), newline_tokens=0))


def left_padding(attention_mask: Tensor | None, visual_mask: Tensor) -> Tensor | None:
    """Tokens of padding [B] on the host, None without any; see ``Prompt.padded``."""

    def refuse(got: str, fix: str) -> PatchError:
        form = "None, or 0 at padding [batch, tokens] on the left and 1 elsewhere"
        return PatchError("attention_mask", expected=form, got=got, fix=fix)

    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        raise refuse("another kind of mask", "Leave attention_mask out.")
    real = attention_mask.cpu().bool()
    if real.shape != visual_mask.shape:
        raise refuse(f"the shape {list(real.shape)}", f"Give one of {list(visual_mask.shape)}.")
    if bool(real.all()):
        return None
    if not bool(real[:, -1].all()):
        raise refuse("padding at the end", "Use the tokenizer's padding_side='left'.")
    padding = (~real).sum(dim=1)
    if bool(real.cummax(dim=1).values.ne(real).any()):
        raise refuse("zeros between tokens", "Pad at the start alone.")
    if bool((visual_mask & ~real).any()):
        raise refuse("0 at visual tokens", "Visual tokens leave by the schedule alone.")
    return padding


def check_visual_mask(mask: Tensor, where: str) -> None:
    """Raises: PatchError when there are no visual tokens, unequal counts, or no text at the end."""

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
