"""Whether a patched model of tests.runtime.models equals the mask-based reference."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aim_cost.schedules.schedule import Schedule
from aim_cost.schedules.trace import TokenTrace
from aim_runtime import patched
from aim_runtime.reference import Reference
from aim_runtime.trace import RunTrace
from tests.runtime.models import Inputs, Model
from tests.runtime.reference import Embedded
from tests.runtime.slow_prompts import (
    Item,
    merging,
    selecting,
    slow_images,
    slow_prompts,
    slow_videos,
    slow_visual,
)
from tests.runtime.slow_scores import SLOW_SCORES
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN

GREEDY = {"max_new_tokens": 3, "do_sample": False}


class Expected(NamedTuple):
    """One prompt of a batch, by the reference: its embeddings and what each layer sees of them."""

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
            positions = torch.cat([positions, positions[-1] + 1 + torch.arange(after)])
        return self.reference.logits(embeds, kept, positions=positions)[-len(new) :]


def traces_of(model: Model, inputs: Inputs, schedule: Schedule) -> list[TokenTrace]:
    """Of each prompt, the trace of it alone."""
    queues = {IMAGE_TOKEN: slow_images(model, inputs), VIDEO_TOKEN: slow_videos(model, inputs)}
    layers = len(model.model.language_model.layers)
    found = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
        items: list[Item] = []
        place = 0
        while place < len(ids):
            queue = queues.get(int(ids[place]))
            if queue:
                items.append(queue.pop(0))
            place += len(items[-1].features) if queue else 1
        visual = slow_visual(items)
        text = int(mask.sum()) - sum(len(item.features) for item in items)
        own = schedule if items else Schedule()
        found.append(own.resolve_visual(visual, text_tokens=text, layers=layers))
    return found


def expected(model: Model, inputs: Inputs, schedule: Schedule) -> list[Expected]:
    """Each prompt of a batch by the reference, where fp32 can tell who stays."""
    traces = traces_of(model, inputs, schedule)
    merge, margins = schedule.merge, [1.0]
    reduce = [
        selecting(model, trace, margins.append) if trace.selected else merging(trace)
        for trace in traces
    ]
    prompts = slow_prompts(model, inputs, reduce)
    assert min(margins) > 1e-5, "choose another seed"
    found = []
    for prompt, trace in zip(prompts, traces, strict=True):
        positions = prompt.positions if merge and merge.positions == "kept" else None
        reference = Reference(model.model.language_model, model.lm_head, SLOW_SCORES)
        kept = reference.kept(prompt.embeds, prompt.visual, trace, positions=positions)
        assert reference.smallest_margin > 1e-4, "choose another seed"
        found.append(Expected(reference, prompt, positions, trace, kept))
    return found


def check(model: Model, inputs: Inputs, schedule: Schedule) -> RunTrace:
    """Kept sets, logits, traces and greedy tokens of a batch; returns the trace that ran."""
    with patched(model, schedule) as trace:
        logits = model(**inputs).logits
        new = model.generate(**inputs, **GREEDY)
    assert torch.equal(new[:, :-3], inputs["input_ids"])
    rows = expected(model, inputs, schedule)
    for number, row in enumerate(rows):
        assert_kept(trace, number, row)
        last = row.kept[-1]
        wanted = row.reference.logits(row.prompt.embeds, row.kept, positions=row.positions)[last]
        own = logits[number, -len(wanted) :]
        torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-3)
        greedy = row.reference.generate(row.prompt.embeds, row.kept, 3, positions=row.positions)
        assert new[number, -3:].tolist() == greedy
    assert_counts(trace.rows, rows, inputs)
    return trace


def assert_kept(trace: RunTrace, number: int, row: Expected) -> None:
    """Row ``number`` kept in each layer what the reference did."""
    padding = trace.kept[0].shape[1] - len(row.prompt.embeds)
    for here, mask in zip(trace.kept, row.kept, strict=True):
        wanted = mask.nonzero()[:, 0] + padding
        assert torch.equal(here[number, -len(wanted) :], wanted)


def assert_counts(rows: Sequence[TokenTrace], wanted: Sequence[Expected], inputs: Inputs) -> None:
    """Recorded traces are the predicted ones."""
    alike = len({(r.trace.merges, r.trace.newline_tokens) for r in wanted}) == 1
    for mask, recorded, row in zip(inputs["attention_mask"], rows, wanted, strict=True):
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
