"""Whether a patched model of tests.runtime.models equals the mask-based reference."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aim_cost.models.workload import VisualInput
from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import TokenTrace
from aim_runtime import patched
from aim_runtime.reference import Reference
from aim_runtime.trace import RunTrace
from tests.runtime.models import Inputs, Model
from tests.runtime.qwen import rope_table
from tests.runtime.reference import Embedded
from tests.runtime.slow_prompts import (
    QWEN,
    Placed,
    merging,
    merging_tower,
    selecting,
    slow_prompts,
    slow_rows,
    slow_visual,
)
from tests.runtime.slow_scores import SLOW_SCORES

GREEDY = {"max_new_tokens": 3, "do_sample": False}


class Undecided(AssertionError):
    """Two tokens are so close that fp32 cannot tell which stays: choose another seed."""


class Expected(NamedTuple):
    """One prompt of a batch, by the reference: its embeddings and what each layer sees of them.

    ``visual``: its images and videos together.
    """

    visual: VisualInput
    reference: Reference
    prompt: Embedded
    positions: Tensor | None
    trace: TokenTrace
    kept: list[Tensor]

    def logits(self, new: Tensor) -> Tensor:
        """Logits [new, V] that precede each of the tokens ``new`` behind the prompt."""
        weights, after = self.reference._weights, len(new) - 1
        words = weights["model.embed_tokens.weight"][new[:-1]]
        embeds = torch.cat([self.prompt.embeds, words])
        kept = [torch.cat([mask, mask.new_ones(after)]) for mask in self.kept]
        positions = self.positions
        if positions is not None:
            new_ones = positions[..., -1:] + 1 + torch.arange(after)
            positions = torch.cat([positions, new_ones], dim=-1)
        return self.reference.logits(embeds, kept, positions=positions)[-len(new) :]


def traces_of(
    model: Model, inputs: Inputs, rows: Sequence[Sequence[Placed]], schedule: Schedule
) -> list[TokenTrace]:
    """Of each prompt, the trace of it alone."""
    layers = len(model.model.language_model.layers)
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    found = []
    for real, row in zip(mask, rows, strict=True):
        items = [item for item, _ in row]
        text = int(real.sum()) - sum(len(item.features) for item in items)
        own = schedule if items else Schedule()
        found.append(own.resolve_visual(slow_visual(items), text_tokens=text, layers=layers))
    return found


def expected(model: Model, inputs: Inputs, schedule: Schedule) -> list[Expected]:
    """Each prompt of a batch by the reference.

    Raises: Undecided; Unfilled for a batch that has no meaning.
    """
    with merging_tower(model, schedule.vision_merge):
        rows = slow_rows(model, inputs)
    traces = traces_of(model, inputs, rows, schedule)
    margins = [1.0]
    reduce = [
        selecting(model, trace, margins.append) if trace.selected else merging(trace)
        for trace in traces
    ]
    prompts = slow_prompts(model, inputs, rows, reduce)
    if min(margins) <= 1e-5:
        raise Undecided(margins)
    found = []
    for number, (prompt, trace) in enumerate(zip(prompts, traces, strict=True)):
        positions = _positions(model, inputs, schedule, number, prompt.positions)
        reference = Reference(model.model.language_model, model.lm_head, SLOW_SCORES)
        kept = reference.kept(prompt.embeds, prompt.visual, trace, positions=positions)
        if reference.smallest_margin <= 1e-4:
            raise Undecided(reference.smallest_margin)
        visual = slow_visual([item for item, _ in rows[number]])
        found.append(Expected(visual, reference, prompt, positions, trace, kept))
    return found


def _positions(
    model: Model, inputs: Inputs, schedule: Schedule, number: int, places: Tensor
) -> Tensor | None:
    """What the tokens at ``places`` of prompt ``number`` keep; None where they are recounted."""
    if not isinstance(model, QWEN):
        keeps = schedule.merge is not None and schedule.merge.positions == "kept"
        return places if keeps else None
    grids = any(name in inputs for name in ("image_grid_thw", "video_grid_thw"))
    if not grids or "mm_token_type_ids" not in inputs:  # positions are those of text
        return None
    table = rope_table(model, inputs)[:, number]
    mask = inputs.get("attention_mask")
    return (table if mask is None else table[:, mask[number].bool()])[:, places]


def check(model: Model, inputs: Inputs, schedule: Schedule) -> RunTrace:
    """Kept sets, logits, traces and greedy tokens of a batch; returns the trace that ran."""
    with patched(model, schedule) as trace:
        logits = model(**inputs).logits
        new = model.generate(**inputs, **GREEDY)
    assert_answers(expected(model, inputs, schedule), inputs, trace, logits, new)
    return trace


def assert_answers(
    rows: Sequence[Expected], inputs: Inputs, trace: RunTrace, logits: Tensor, new: Tensor
) -> None:
    """What a patched model answers, by forward and by ``generate``, is what the reference does."""
    assert torch.equal(new[:, :-3], inputs["input_ids"])
    for number, row in enumerate(rows):
        assert_kept(trace, number, row)
        last = row.kept[-1]
        wanted = row.reference.logits(row.prompt.embeds, row.kept, positions=row.positions)[last]
        own = logits[number, -len(wanted) :]
        torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-3)
        greedy = row.reference.generate(row.prompt.embeds, row.kept, 3, positions=row.positions)
        assert new[number, -3:].tolist() == greedy
    assert_counts(trace.rows, rows, inputs)


def assert_kept(trace: RunTrace, number: int, row: Expected) -> None:
    """Row ``number`` kept in each layer what the reference did."""
    padding = trace.kept[0].shape[1] - len(row.prompt.embeds)
    for here, mask in zip(trace.kept, row.kept, strict=True):
        wanted = mask.nonzero()[:, 0] + padding
        assert torch.equal(here[number, -len(wanted) :], wanted)


def assert_counts(rows: Sequence[TokenTrace], wanted: Sequence[Expected], inputs: Inputs) -> None:
    """Recorded traces are the predicted ones."""
    alike = len({row.visual for row in wanted}) == 1
    masks = inputs.get("attention_mask")
    masks = torch.ones_like(inputs["input_ids"]) if masks is None else masks
    for mask, recorded, row in zip(masks, rows, wanted, strict=True):
        # where rows hold visual tokens alike, padding counts as text
        padding = int((mask == 0).sum()) if alike else 0
        trace = row.trace
        assert recorded.attention_tokens == tuple(n + padding for n in trace.attention_tokens)
        assert recorded.mlp_tokens == tuple(n + padding for n in trace.mlp_tokens)
        assert recorded.text_tokens == trace.text_tokens + padding
        assert recorded.merges == trace.merges
        assert (recorded.selected, recorded.selected_by) == (trace.selected, trace.selected_by)
        assert recorded.newline_tokens == trace.newline_tokens
        assert recorded.scored_layers == trace.scored_layers
