"""Prompt: which tokens of a batch of prompts are visual when they enter the LLM."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aim_cost.models.workload import VisualInput
from aim_cost.schedules.trace import Ranked
from aim_runtime.errors import PatchError
from aim_runtime.models.visual import VisualItem, visual_input


@dataclass(frozen=True)
class Run:
    """Placeholders in a row: of an image or video or, with text between, of a group of it.

    Args:
        start: the place of its first token in the row of the prompt.
        whole, tokens: that stood there in the caller's prompt, and that are left.
    """

    start: int
    whole: int
    tokens: int

    @property
    def lost(self) -> int:
        return self.whole - self.tokens


@dataclass(frozen=True)
class Placed:
    """An image or a video in a row of a prompt.

    Args:
        number: among all of its modality in the batch, in the order of rows.
        runs: where its tokens stand, in order.
        ranked: what select ranks of it; () without select.
    """

    item: VisualItem
    modality: str
    number: int
    runs: tuple[Run, ...]
    ranked: tuple[Ranked, ...] = ()

    @property
    def start(self) -> int:
        """The place of its first token in the row."""
        return self.runs[0].start

    @property
    def tokens(self) -> int:
        """The tokens that stand there, after merging or selecting."""
        return sum(run.tokens for run in self.runs)

    @property
    def lost(self) -> int:
        """The number of tokens that sampling, merging or selecting removes."""
        return self.item.run - self.tokens


@dataclass(frozen=True)
class Cut:
    """The places that the tokens of a shortened prompt have in the caller's.

    Args:
        sources: int64 [B, n] on the host, the place of each token; -1 at padding that the caller's
            prompt does not have. The tokens of a run count on from its first place.
        tokens: N, of each row of the caller's prompt.
        padding: int64 [B] on the host, of the caller's prompt; None without any.
    """

    sources: Tensor
    tokens: int
    padding: Tensor | None

    def take(self, rows: Tensor) -> "Cut":
        """The rows [B] of it, in this order."""
        padding = None if self.padding is None else self.padding[rows]
        return replace(self, sources=self.sources[rows], padding=padding)


@dataclass(frozen=True)
class Prompt:
    """The prompts of a batch.

    Args:
        visual_mask: bool [B, n] on the host, True at visual tokens.
        visual: the groups that the visual tokens of each row come from, for
            ``Schedule.resolve_visual``.
        placed: the images and videos of each row in order; () where embeddings were given.
        padding: int64 [B] on the host, tokens of padding at the start of each row; None without
            any.
        cut: how the caller's prompt was shortened; None where it was not.
        ids: int64 [B, N], of the caller's prompt; None where embeddings were given.
    """

    visual_mask: Tensor
    visual: tuple[VisualInput, ...]
    placed: tuple[tuple[Placed, ...], ...] = ()
    padding: Tensor | None = None
    cut: Cut | None = None
    ids: Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.visual_mask.shape[1]

    @property
    def is_even(self) -> bool:
        """Whether all rows have their visual tokens at the same places."""
        return len(set(self.visual)) == 1

    @property
    def text_tokens(self) -> tuple[int, ...]:
        """The text tokens of each row, without padding where rows differ.

        Where rows do not differ, padding counts as text: no layer drops it.
        """
        text = self.tokens - self.visual_mask.sum(dim=1)
        if self.padding is not None and not self.is_even:
            text = text - self.padding
        return tuple(text.tolist())

    @property
    def caller_tokens(self) -> int:
        """The tokens of each row of the caller's prompt, N."""
        return self.tokens if self.cut is None else self.cut.tokens

    @property
    def caller_padding(self) -> Tensor | None:
        """The padding [B] at the start of each row of the caller's prompt; None without any."""
        return self.padding if self.cut is None else self.cut.padding

    @property
    def lost(self) -> tuple[int, ...]:
        """The number of tokens that are removed from each row before it enters the LLM."""
        return tuple(sum(placed.lost for placed in row) for row in self.placed)

    def numbers(self, modality: str) -> list[int]:
        """The number in the batch of each image or video, in the order of rows."""
        rows = ((p.number for p in row if p.modality == modality) for row in self.placed)
        return [number for row in rows for number in sorted(row)]

    def ranked(self, modality: str) -> list[tuple[Ranked, ...]]:
        """What select ranks of each image or video of the batch, by its number."""
        found = {p.number: p.ranked for row in self.placed for p in row if p.modality == modality}
        return [found[number] for number in sorted(found)]

    def texts(self, modality: str) -> list[Tensor]:
        """The ids [T] of the text around each image or video of the batch, by its number."""
        assert self.ids is not None
        found = {}
        for row, placed_here in enumerate(self.placed):
            numbers = [placed.number for placed in placed_here if placed.modality == modality]
            if not numbers:
                continue
            places = torch.arange(self.tokens, device="cpu")
            places = places if self.cut is None else self.cut.sources[row]
            padding = 0 if self.caller_padding is None else int(self.caller_padding[row])
            places = places[~self.visual_mask[row] & (places >= padding)]
            text = self.ids[row, places.to(self.ids.device, non_blocking=True)]
            found.update(dict.fromkeys(numbers, text))
        return [found[number] for number in sorted(found)]

    def expand(self, batch: int) -> "Prompt":
        """Repeat each row as ``generate`` does for beams and several sequences a prompt."""
        rows = len(self.visual_mask)
        return self.take([row for row in range(rows) for _ in range(max(1, batch // rows))])

    def take(self, rows: Sequence[int]) -> "Prompt":
        """Some of its rows, in this order; a row may come several times."""
        index = torch.tensor(rows, device="cpu")
        return replace(
            self,
            visual_mask=self.visual_mask[index],
            visual=tuple(self.visual[row] for row in rows),
            placed=tuple(self.placed[row] for row in rows) if self.placed else (),
            padding=None if self.padding is None else self.padding[index],
            cut=None if self.cut is None else self.cut.take(index),
            ids=None if self.ids is None else self.ids[index.to(self.ids.device)],
        )

    def padded(self, attention_mask: Tensor | None) -> "Prompt":
        """With the padding of a decoder's ``attention_mask`` [B, n].

        Raises: PatchError unless zeros stand at the start of a row, before its visual tokens.
        """
        return replace(self, padding=left_padding(attention_mask, self.visual_mask))


def text_prompt(batch: int, tokens: int) -> Prompt:
    """A prompt without visual tokens."""
    return Prompt(
        torch.zeros(batch, tokens, dtype=torch.bool, device="cpu"), (visual_input(()),) * batch
    )


def embedded_prompt(visual_mask: Tensor) -> Prompt:
    """A prompt given as embeddings: its visual tokens are one group that is not merged.

    Raises: PatchError, as ``check_visual_mask``.
    """
    check_visual_mask(visual_mask, "visual_mask")
    mask = visual_mask.cpu()
    counts = mask.sum(dim=1).tolist()
    return Prompt(mask, tuple(VisualInput(min(count, 1), count, 0) for count in counts))


def undescribed_embeddings() -> PatchError:
    """The error for embeddings of which nobody says which are visual."""
    return PatchError(
        "inputs_embeds",
        expected="a visual_mask beside them",
        got="none",
        fix="Patch with visual_mask=mask, True at visual tokens.",
    )


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


def check_follow_up_mask(attention_mask: Tensor | None, prompt: Prompt) -> None:
    """Raises: PatchError unless a mask after a cached prompt hides its padding, and no more.

    Args: attention_mask [B, n], of the tokens that are cached and those that are new.
    """
    if attention_mask is None:
        return
    got = "another kind of mask"
    if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2:
        before = prompt.caller_padding
        padding = 0 if before is None else before.to(attention_mask.device)[:, None]
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        if not bool((attention_mask.bool() != (places >= padding)).any()):
            return
        got = "zeros elsewhere"
    raise PatchError(
        "attention_mask",
        expected="None, or 0 at the padding of the cached prompt and 1 elsewhere [batch, tokens]",
        got=got,
        fix="Go on with the mask of the prompt, and 1 for each new token.",
    )


def check_visual_mask(mask: Tensor, where: str) -> None:
    """Raises: PatchError for no mask, no visual tokens in any prompt, or no text at the end."""

    def refuse(expected: str, got: object, fix: str) -> PatchError:
        return PatchError(where, expected=expected, got=got, fix=fix)

    form = "a bool tensor [batch, prompt tokens] with values, True at visual tokens"
    if not isinstance(mask, Tensor) or mask.is_meta or mask.dtype != torch.bool or mask.dim() != 2:
        got = f"{type(mask).__name__} {getattr(mask, 'dtype', '')} {getattr(mask, 'shape', '')}"
        raise refuse(form, got, "Make the mask on the CPU or the device of the model.")
    if not bool(mask.any()):
        raise refuse(
            "visual tokens",
            "none",
            "A schedule reduces visual tokens: give a prompt with images or videos, or use the "
            "unpatched model.",
        )
    if bool(mask[:, -1].any()):
        raise refuse(
            "a text token at the end of the prompt, which predicts the first new token",
            "a visual token",
            "Put the question after the image or video.",
        )
