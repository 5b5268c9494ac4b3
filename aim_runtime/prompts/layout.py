"""Layout: the places of images and videos in prompts, and how merging shortens their runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aim_cost.schedules.merge import Merge
from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.visual import MODALITIES, VisualItem, visual_input
from aim_runtime.prompts.encoded import Encoded, features_of_another_run
from aim_runtime.prompts.prompt import Placed, Prompt, check_visual_mask, left_padding, text_prompt

Items = Sequence[VisualItem]

_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


@dataclass(frozen=True)
class Shortened:
    """A prompt whose placeholders have been cut to what merging leaves.

    Args:
        inputs: for the model; the caller's own where nothing was cut.
        prompt: the same, described.
    """

    inputs: Inputs
    prompt: Prompt


class Layout:
    """Reads prompts as the processor of a model wrote them, and shortens them."""

    def __init__(self, adapter: Adapter, merge: Merge | None) -> None:
        self._adapter, self._merge = adapter, merge

    def prepare(
        self, inputs: Inputs, encoded: Mapping[str, Encoded | None] | None = None
    ) -> Shortened:
        """Shorten ``input_ids`` and what goes with them to the placeholders that merging leaves.

        Inputs that are already short pass unchanged; ``inputs`` itself is not changed. Rows that
        lose different numbers of tokens are padded on the left to a common length.
        Args: encoded, what was encoded last for each modality, for prompts with ready features.
        Raises: PatchError when placeholders and pixels do not fit, and for position_ids of a prompt
        that merging shortens; ScheduleError where it does not fit.
        """
        masks = self._masks(inputs)
        rows: list[list[Placed]] = [[] for _ in inputs["input_ids"]]
        for modality, mask in masks.items():
            items, copies = self._items(inputs, modality, encoded or {})
            if items is None and not bool(mask.any()):
                continue
            if items is None:
                raise PatchError(
                    "prompt",
                    expected="the pixels behind its placeholders",
                    got=f"no {self._adapter.pixel_inputs[modality][0]} for {int(mask.sum())} "
                    f"{modality} placeholders",
                    fix="Pass all that the processor returned.",
                )
            for row, placed in zip(rows, self._place(mask, modality, items, copies), strict=True):
                row += placed
        return self._shortened(inputs, masks, rows)

    def prepare_follow_up(self, inputs: Inputs, earlier: Prompt) -> Shortened:
        """``prepare`` a conversation whose beginning, with all its pixels, is cached.

        The pixels are left out of the result. Raises: PatchError when the visual tokens are not
        those of ``earlier``.
        """
        masks = self._masks(inputs)
        placed = earlier.placed or ((),) * len(inputs["input_ids"])
        rows: list[list[Placed]] = [[] for _ in placed]
        for modality, mask in masks.items():
            for row, cached, here in zip(rows, placed, mask, strict=True):
                known = [place for place in cached if place.modality == modality]
                sizes = [[p.item.tokens for p in known], [p.tokens for p in known]]
                found = next((size for size in sizes if sum(size) == int(here.sum())), None)
                if found is None:
                    raise PatchError(
                        "input_ids",
                        expected=f"the whole conversation, with the {sum(sizes[0])} visual tokens "
                        "whose keys and values are cached",
                        got=f"{int(here.sum())} placeholders",
                        fix="Start a new cache for new images and videos.",
                    )
                row += _in_a_row(here, known, found)
        gone = {name for names in self._adapter.pixel_inputs.values() for name in names}
        inputs = {name: value for name, value in inputs.items() if name not in gone}
        return self._shortened(inputs, masks, rows)

    def has_visual_tokens(self, inputs: Inputs) -> bool:
        """Whether there is a placeholder in ``input_ids``."""
        return any(bool(mask.any()) for mask in self._masks(inputs).values())

    def _masks(self, inputs: Inputs) -> dict[str, Tensor]:
        ids = inputs["input_ids"].cpu()
        tokens = self._adapter.placeholders
        return {modality: ids == tokens[modality] for modality in MODALITIES if modality in tokens}

    def _items(
        self, inputs: Inputs, modality: str, encoded: Mapping[str, Encoded | None]
    ) -> tuple[Items | None, int]:
        """The items of a modality, and how often each prompt with its items was repeated."""
        ready = (inputs.get("mm_encoder_outputs") or {}).get(modality)
        if ready is None:
            return self._adapter.items(inputs, modality), 1
        last, features = encoded.get(modality), ready.pooler_output
        if last is None or len(features) % len(last.items):
            raise features_of_another_run(f"features of {len(features)} {modality}s")
        return last.items, len(features) // len(last.items)

    def _place(self, mask: Tensor, modality: str, items: Items, copies: int) -> list[list[Placed]]:
        """Items of each row of mask[B, n]: they fill its placeholders in order."""
        short = [item.merged_tokens(self._merge) for item in items]
        full = [item.tokens for item in items]
        given = mask.sum(dim=1).tolist()
        sizes = next((s for s in (full, short) if sum(s) * copies == sum(given)), [])
        rows: list[list[Placed]] = []
        first = 0
        for row, count in enumerate(given if sizes else ()):
            if row % copies and rows[-1]:  # the same prompt again
                first = rows[-1][0].number
            after = first
            while sum(sizes[first:after]) < count and after < len(sizes):
                after += 1
            if sum(sizes[first:after]) != count:
                break
            known = [
                Placed(items[i], modality, i, start=0, tokens=short[i]) for i in range(first, after)
            ]
            rows.append(_in_a_row(mask[row], known, sizes[first:after]))
            first = after
        if len(rows) < len(given) or first != len(items):
            merged = f" ({sum(short) * copies} when already merged)" if short != full else ""
            raise PatchError(
                "input_ids",
                expected=f"{sum(full) * copies} {modality} placeholders for {len(items)} "
                f"{modality}{'s' * (len(items) > 1)}{merged}, those of each in one prompt",
                got=f"{', '.join(map(str, given))}",
                fix="Let the model's processor write the prompt.",
            )
        return rows

    def _shortened(
        self, inputs: Inputs, masks: dict[str, Tensor], rows: list[list[Placed]]
    ) -> Shortened:
        ids = inputs["input_ids"]
        mask = torch.stack(list(masks.values())).any(dim=0)
        if not bool(mask.any()):
            return Shortened(inputs, text_prompt(*mask.shape))
        check_visual_mask(mask, "input_ids")
        for row in rows:
            row.sort(key=lambda placed: placed.start)
        visual = tuple(visual_input([placed.item for placed in row]) for row in rows)
        if self._merge is not None:
            for size in {row.group_tokens for row in visual if row.groups}:
                self._merge.token_counts(size)  # before anything is encoded
        if mask.sum(dim=1).tolist() == [sum(placed.tokens for placed in row) for row in rows]:
            return Shortened(inputs, Prompt(mask, visual, tuple(map(tuple, rows))))
        if inputs.get("position_ids") is not None:
            raise PatchError(
                "position_ids",
                expected="none, because merging shortens the prompt",
                got="position_ids of the full prompt",
                fix="Leave them out.",
            )
        for name in _PER_TOKEN:
            one = inputs.get(name)
            if one is not None and one.shape != mask.shape:
                raise PatchError(
                    name,
                    expected=f"one of each token: {list(mask.shape)}",
                    got=list(one.shape),
                    fix="Pass all that the processor returned.",
                )
        before = left_padding(inputs.get("attention_mask"), mask)
        index, padding = _without_ends(rows, ids.shape[1], before)
        shortened = {
            name: inputs[name].gather(1, index.to(inputs[name].device))
            for name in _PER_TOKEN
            if inputs.get(name) is not None
        }
        if padding is not None:
            real = torch.arange(index.shape[1]) >= padding[:, None]
            shortened["attention_mask"] = real.to(ids.device).long()
        placed = tuple(_moved(rows, before, padding))
        return Shortened(inputs | shortened, Prompt(mask.gather(1, index), visual, placed))


def _in_a_row(mask: Tensor, known: Sequence[Placed], sizes: Sequence[int]) -> list[Placed]:
    """The places of a row's items, which fill the placeholders of mask[n], ``sizes`` each.

    Raises: PatchError for text inside a run that merging shortens.
    """
    places = mask.nonzero()[:, 0].tolist()
    placed, start = [], 0
    for item, size in zip(known, sizes, strict=True):
        first, last = places[start], places[start + size - 1]
        if item.lost and last - first != size - 1:
            raise PatchError(
                "input_ids",
                expected=f"the placeholders of a {item.modality} in one run",
                got="text between them",
                fix="Merging shortens the run: keep text before and after it.",
            )
        placed.append(replace(item, start=first))
        start += size
    return placed


def _without_ends(
    rows: Sequence[Sequence[Placed]], length: int, padding: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Index [B, kept] of prompts whose runs have lost their ends, and the padding that is new.

    Rows that all lose the same number keep their padding; others are padded up to the longest.
    """
    keep = torch.ones(len(rows), length, dtype=torch.bool)
    for row, places in zip(keep, rows, strict=True):
        for placed in places:
            row[placed.start + placed.tokens : placed.start + placed.item.tokens] = False
    if len(set(keep.sum(dim=1).tolist())) == 1:
        return keep.nonzero()[:, 1].view(len(rows), -1), None
    if padding is not None:
        keep &= torch.arange(length) >= padding[:, None]
    left = keep.sum(dim=1)
    new = int(left.max()) - left
    # padding repeats the last token, which is text: its id must be no placeholder
    index = [
        torch.cat([torch.full((int(before),), length - 1), row.nonzero()[:, 0]])
        for row, before in zip(keep, new, strict=True)
    ]
    return torch.stack(index), new


def _moved(
    rows: Sequence[Sequence[Placed]], before: Tensor | None, after: Tensor | None
) -> list[tuple[Placed, ...]]:
    """The items of each row after the cut; ``before`` and ``after``: padding that was replaced."""
    moved = []
    for number, row in enumerate(rows):
        shift = 0 if after is None else int(after[number])
        shift -= 0 if after is None or before is None else int(before[number])
        places = []
        for placed in row:
            places.append(replace(placed, start=placed.start + shift))
            shift -= placed.lost
        moved.append(tuple(places))
    return moved
