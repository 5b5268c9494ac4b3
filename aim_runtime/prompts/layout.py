"""Layout: the places of images and videos in prompts, and how a schedule shortens their runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from aim_cost.models.workload import VisualInput
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import Ranked
from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.sampling import FrameSampling
from aim_runtime.models.visual import (
    MODALITIES,
    selected_tokens,
    visual_input,
)
from aim_runtime.prompts.encoded import Encoded, Items
from aim_runtime.prompts.prompt import (
    Cut,
    Placed,
    Prompt,
    Run,
    check_visual_mask,
    left_padding,
    text_prompt,
)
from aim_runtime.reduction.select import take_tokens

_EMBEDS = "inputs_embeds"
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", _EMBEDS)


@dataclass(frozen=True)
class Shortened:
    """A prompt whose placeholders have been cut to what is merged or selected.

    Args:
        inputs: for the model; the caller's own where nothing was cut.
        prompt: the same, described.
    """

    inputs: Inputs
    prompt: Prompt


class Layout:
    """Reads prompts as the processor of a model wrote them, and shortens them."""

    def __init__(self, adapter: Adapter, schedule: Schedule) -> None:
        self._adapter, self._merge, self._select = adapter, schedule.merge, schedule.select
        self._sampling = FrameSampling(adapter, schedule.sample)

    def prepare(
        self,
        inputs: Inputs,
        known: Mapping[str, Items] | None = None,
        encoded: Mapping[str, Encoded] | None = None,
    ) -> Shortened:
        """Shorten ``input_ids`` and what goes with them to the placeholders of what is left.

        ``inputs`` itself is not changed; ``position_ids`` stay as they are. Rows that lose
        different numbers of tokens are padded on the left to a common length.
        Args: known, the items of ready features by modality; encoded, by modality, what is left of
            a prompt that was ``undecided``.
        Raises: PatchError when placeholders and pixels do not fit, or the mask hides more than
        padding on the left; ScheduleError where the schedule does not fit.
        """
        masks, rows = self._placed(inputs, known or {})
        return self._shortened(inputs, masks, rows, encoded or {})

    def undecided(self, inputs: Inputs, known: Mapping[str, Items]) -> Prompt | None:
        """The whole prompt, where features decide how many tokens are left of a run.

        That is so where text stands between the frames of a video whose tokens are chosen together.
        None elsewhere. Raises: as ``prepare``.
        """
        if self._select is None or not self._adapter.frames_apart:
            return None
        masks, rows = self._placed(inputs, known)
        for row in rows:
            row.sort(key=lambda placed: placed.start)
            ranked = self._select.ranked([p.item.groups for p in row]) if row else []
            row[:] = [replace(p, ranked=parts) for p, parts in zip(row, ranked, strict=True)]
        if not any(_together(placed) for row in rows for placed in row):
            return None
        mask = torch.stack(list(masks.values())).any(dim=0)
        check_visual_mask(mask, "input_ids")
        padding = left_padding(inputs.get("attention_mask"), mask)
        return Prompt(mask, _visual(rows), tuple(map(tuple, rows)), padding=padding)

    def _placed(
        self, inputs: Inputs, known: Mapping[str, Items]
    ) -> tuple[dict[str, Tensor], list[list[Placed]]]:
        """The placeholders of each modality, bool [B, n], and the items of each row."""
        masks = self._masks(inputs["input_ids"])
        rows: list[list[Placed]] = [[] for _ in inputs["input_ids"]]
        for modality, mask in masks.items():
            items, copies = self._items(inputs, modality, known)
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
        return masks, rows

    def visual_mask(self, ids: Tensor) -> Tensor:
        """Where ids[B, n] are placeholders: bool [B, n], on the host."""
        return torch.stack(list(self._masks(ids).values())).any(dim=0)

    def _masks(self, ids: Tensor) -> dict[str, Tensor]:
        ids = ids.cpu()
        tokens = self._adapter.placeholders
        return {modality: ids == tokens[modality] for modality in MODALITIES if modality in tokens}

    def _items(
        self, inputs: Inputs, modality: str, known: Mapping[str, Items]
    ) -> tuple[Items | None, int]:
        """The items of a modality, and how often each prompt with its items was repeated."""
        items = known.get(modality)
        if items is None:
            return self._sampling.items(inputs, modality), 1
        return items, len(inputs["mm_encoder_outputs"][modality].pooler_output) // len(items)

    def _place(self, mask: Tensor, modality: str, items: Items, copies: int) -> list[list[Placed]]:
        """Items of each row of mask[B, n]: they fill its placeholders in order."""
        full = [item.run for item in items]
        given = mask.sum(dim=1).tolist()
        rows: list[list[Placed]] = []
        first = 0
        for row, count in enumerate(given if sum(full) * copies == sum(given) else ()):
            if row % copies and rows[-1]:  # the same prompt again
                first = rows[-1][0].number
            after = first
            while sum(full[first:after]) < count and after < len(full):
                after += 1
            if sum(full[first:after]) != count:
                break
            rows.append(_in_a_row(mask[row], modality, items, range(first, after)))
            first = after
        if len(rows) < len(given) or first != len(items):
            raise PatchError(
                "input_ids",
                expected=f"{sum(full) * copies} {modality} placeholders for {len(items)} "
                f"{modality}{'s' * (len(items) > 1)}, those of each in one prompt",
                got=f"{', '.join(map(str, given))}",
                fix="Let the model's processor write the prompt.",
            )
        return rows

    def _left(self, row: Sequence[Placed], encoded: Mapping[str, Encoded]) -> list[Placed]:
        """The items of a row with what the schedule leaves of each.

        Raises: ScheduleError; PatchError where it is not known what is left of a run.
        """
        if self._merge is not None:
            return [self._evenly(p, p.item.merged_tokens(self._merge)) for p in row]
        if self._select is not None and row:
            if any(placed.modality == "image" for placed in row):
                self._select.check_images()
            ranked = self._select.ranked([placed.item.groups for placed in row])
            return [self._selected(*pair, encoded) for pair in zip(row, ranked, strict=True)]
        return [self._evenly(placed, placed.item.tokens) for placed in row]

    def _evenly(self, placed: Placed, left: int) -> Placed:
        """``placed`` with ``left`` tokens, equally many of each group where groups stand apart."""
        groups = sum(groups for groups, _ in placed.item.groups)
        return self._with_runs(placed, left, lambda: [left // groups] * groups)

    def _selected(
        self, placed: Placed, ranked: tuple[Ranked, ...], encoded: Mapping[str, Encoded]
    ) -> Placed:
        def of_groups() -> list[int]:
            (part,), ((groups, tokens),) = ranked, placed.item.groups
            if part.sets == groups:
                return [part.kept] * groups
            if not part.chooses:
                return [tokens if part.kept else 0] * groups
            places = encoded[placed.modality].places[placed.number]  # among the encoded
            found: list[int] = (places // tokens).bincount(minlength=groups).tolist()
            return found

        placed = replace(placed, ranked=ranked)
        return self._with_runs(placed, selected_tokens(placed.item, ranked), of_groups)

    def _with_runs(self, placed: Placed, left: int, of_groups: Callable[[], list[int]]) -> Placed:
        """``placed`` with ``left`` tokens, in runs of ``of_groups()`` where groups stand apart.

        Args: of_groups, the tokens left of each group that is encoded.
        Raises: PatchError for text inside a run that is shortened, or none where there must be.
        """
        item = placed.item
        if left == item.run:
            return placed
        whole = [run.whole for run in placed.runs]
        groups = self._adapter.runs_of(item)
        if len(groups) > 1 and self._adapter.frames_apart:
            if whole != groups:
                raise PatchError(
                    "input_ids",
                    expected=f"text between the {len(groups)} temporal patches of a video, "
                    f"{groups[0]} placeholders each",
                    got=f"runs of {', '.join(map(str, whole))} placeholders",
                    fix="Let the model's processor write the prompt.",
                )
            encoded = iter(of_groups())
            missing = {place // groups[0] for place in item.missing}
            counts = [0 if n in missing else next(encoded) for n in range(len(groups))]
        elif len(whole) == 1:
            counts = [left]
        else:
            raise PatchError(
                "input_ids",
                expected=f"the placeholders of one {placed.modality} in one run",
                got="other tokens between them",
                fix="The schedule shortens the run: keep text, and other images and videos, "
                "before and after it.",
            )
        pairs = zip(placed.runs, counts, strict=True)
        return replace(placed, runs=tuple(replace(run, tokens=count) for run, count in pairs))

    def _shortened(
        self,
        inputs: Inputs,
        masks: dict[str, Tensor],
        rows: list[list[Placed]],
        encoded: Mapping[str, Encoded],
    ) -> Shortened:
        ids = inputs["input_ids"]
        mask = torch.stack(list(masks.values())).any(dim=0)
        before = left_padding(inputs.get("attention_mask"), mask)
        if not bool(mask.any()):
            return Shortened(inputs, text_prompt(*mask.shape))
        check_visual_mask(mask, "input_ids")
        for row in rows:
            row.sort(key=lambda placed: placed.start)
            row[:] = self._left(row, encoded)
        visual = _visual(rows)
        if self._merge is not None:
            for size in {row.group_tokens for row in visual if row.groups}:
                self._merge.token_counts(size)  # before anything is encoded
        if mask.sum(dim=1).tolist() == [sum(placed.tokens for placed in row) for row in rows]:
            return Shortened(inputs, Prompt(mask, visual, tuple(map(tuple, rows))))
        given = [name for name in _PER_TOKEN if inputs.get(name) is not None]
        for name in given:
            if inputs[name].shape[:2] != mask.shape or inputs[name].dim() > 2 + (name == _EMBEDS):
                raise PatchError(
                    name,
                    expected=f"one of each token: {list(mask.shape)}",
                    got=list(inputs[name].shape),
                    fix="Pass all that the processor returned.",
                )
        index, padding = _without_ends(rows, ids.shape[1], before)
        shortened = {
            name: take_tokens(inputs[name], index.to(inputs[name].device)) for name in given
        }
        sources = index.clone()
        if padding is not None:
            real = torch.arange(index.shape[1], device="cpu") >= padding[:, None]
            shortened["attention_mask"] = real.to(ids.device).long()
            sources[~real] = -1
        placed = tuple(_moved(rows, before, padding))
        cut = Cut(sources, ids.shape[1], before)
        return Shortened(inputs | shortened, Prompt(mask.gather(1, index), visual, placed, cut=cut))


def _visual(rows: Sequence[Sequence[Placed]]) -> tuple[VisualInput, ...]:
    """The groups that the visual tokens of each row come from."""
    return tuple(visual_input([placed.item for placed in row]) for row in rows)


def _together(placed: Placed) -> bool:
    """Whether the tokens of several groups are chosen together."""
    groups = sum(groups for groups, _ in placed.item.groups)
    return any(part.chooses and part.sets < groups for part in placed.ranked)


def _in_a_row(mask: Tensor, modality: str, items: Items, numbers: Iterable[int]) -> list[Placed]:
    """The items of a row, which fill the placeholders of mask[n] and lose nothing more yet."""
    places = mask.nonzero()[:, 0].tolist()
    placed, before = [], 0
    for number in numbers:
        item = items[number]
        own = places[before : before + item.run]
        breaks = [i for i in range(1, len(own)) if own[i] != own[i - 1] + 1]
        runs = tuple(
            Run(own[first], after - first, after - first)
            for first, after in pairwise((0, *breaks, len(own)))
        )
        placed.append(Placed(item, modality, number, runs))
        before += item.run
    return placed


def _without_ends(
    rows: Sequence[Sequence[Placed]], length: int, padding: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Index [B, kept] of prompts whose runs have lost their ends, and the padding that is new.

    Rows that all lose the same number keep their padding; others are padded up to the longest.
    """
    keep = torch.ones(len(rows), length, dtype=torch.bool, device="cpu")
    for row, places in zip(keep, rows, strict=True):
        for run in (run for placed in places for run in placed.runs):
            row[run.start + run.tokens : run.start + run.whole] = False
    if len(set(keep.sum(dim=1).tolist())) == 1:
        return keep.nonzero()[:, 1].view(len(rows), -1), None
    if padding is not None:
        keep &= torch.arange(length, device="cpu") >= padding[:, None]
    left = keep.sum(dim=1)
    new = int(left.max()) - left
    # padding repeats the last token, which is text: its id must be no placeholder
    index = [
        torch.cat([torch.full((int(before),), length - 1, device="cpu"), row.nonzero()[:, 0]])
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
        starts = {}
        for run in sorted((run for placed in row for run in placed.runs), key=_start):
            starts[run.start] = run.start + shift
            shift -= run.lost
        moved.append(
            tuple(
                replace(
                    placed,
                    runs=tuple(replace(run, start=starts[run.start]) for run in placed.runs),
                )
                for placed in row
            )
        )
    return moved


def _start(run: Run) -> int:
    return run.start
