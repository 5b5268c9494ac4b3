"""The physical drop equals masking, over random models, prompts and schedules."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aim_cost import Schedule
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.merge import MERGE_KINDS, POSITIONS, Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.reference import Reference
from tests.runtime.reference import Embedded, embedded_video
from tests.runtime.slow_scores import RANKINGS, SLOW_SCORES
from tests.runtime.support import FRAME_TOKENS, tiny_llava, tiny_qwen2, video_inputs

LAYERS = 5
NEW_TOKENS = 3

lists = st.one_of(
    st.lists(st.floats(0, 1), min_size=1, max_size=LAYERS).map(lambda r: {"ratios": r}),
    st.lists(st.integers(0, 24), min_size=1, max_size=LAYERS).map(lambda n: {"tokens": n}),
).map(lambda given: {name: tuple(sorted(v, reverse=True)) for name, v in given.items()})
linear = st.tuples(st.integers(0, LAYERS - 1), st.integers(1, 9)).filter(lambda p: p[0] < p[1])
prunes = st.builds(
    lambda amount, ranking: Prune(**amount, **ranking),
    st.one_of(lists, linear.map(lambda pair: {"linear": pair})),
    st.sampled_from(RANKINGS),
)


def resolved(schedule, visual, text, batch):
    """The predicted trace; no example where more tokens should stay than there are."""
    try:
        return schedule.resolve_visual(visual, text_tokens=text, layers=LAYERS, batch=batch)
    except ScheduleError:
        assume(False)


def decided(reference, row, trace, positions=None):
    """The reference's kept sets, where fp32 can tell the last kept token from the first dropped."""
    kept = reference.kept(row.embeds, row.visual, trace, positions=positions)
    assume(reference.smallest_margin > 1e-3)
    return kept


def compare(reference, row, trace, number, logits, new, positions=None):
    """Kept sets, logits and greedy tokens of one prompt against the reference."""
    kept = decided(reference, row, trace.tokens, positions)
    for layer in range(LAYERS + 1):
        assert trace.kept[layer][number].tolist() == kept[layer].nonzero()[:, 0].tolist()
    expected = reference.logits(row.embeds, kept, positions=positions)[kept[-1]]
    torch.testing.assert_close(logits[number], expected, rtol=1e-3, atol=1e-3)
    tokens = reference.generate(row.embeds, kept, NEW_TOKENS, positions=positions)
    assert new[number].tolist() == tokens


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    prune=prunes,
    seed=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=2),
    visual_tokens=st.integers(1, 24),
    attention=st.sampled_from(["sdpa", "eager"]),
    batch=st.integers(1, 2),
)
def test_pruning_a_language_model(prune, seed, sizes, visual_tokens, attention, batch):
    before, after = sizes
    schedule = Schedule(prune=prune)
    predicted = resolved(schedule, VisualInput(1, visual_tokens, 0), before + after, batch)
    model = tiny_qwen2(LAYERS, seed)
    model.set_attn_implementation(attention)
    tokens = before + visual_tokens + after
    embeds = torch.randn(batch, tokens, 64)
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    for row in range(batch):  # the second prompt has its video elsewhere
        start = before if row == 0 else after - 1
        mask[row, start : start + visual_tokens] = True
    with patched(model, schedule, visual_mask=mask) as trace:
        output = model(inputs_embeds=embeds)
        new = model.generate(inputs_embeds=embeds, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert trace.tokens == predicted
    assert trace.cache_tokens == trace.tokens.attention_tokens
    for row in range(batch):
        prompt = Embedded(embeds[row], mask[row], torch.arange(tokens))
        compare(
            Reference(model.model, model.lm_head, SLOW_SCORES),
            prompt,
            trace,
            row,
            output.logits,
            new,
        )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    prune=st.none() | prunes,
    kept_per_frame=st.integers(1, FRAME_TOKENS),
    by=st.sampled_from(MERGE_KINDS),
    positions=st.sampled_from(POSITIONS),
    frames=st.integers(1, 4),
    before=st.integers(0, 5),
    after=st.integers(1, 6),
    seed=st.integers(0, 3),
    batch=st.integers(1, 2),
)
def test_merging_and_pruning_a_video(
    prune, kept_per_frame, by, positions, frames, before, after, seed, batch
):
    schedule = Schedule(Merge(tokens_per_frame=kept_per_frame, by=by, positions=positions), prune)
    visual = VisualInput(frames, FRAME_TOKENS, 1)
    predicted = resolved(schedule, visual, before + after, batch)
    llava = tiny_llava(LAYERS, seed)
    inputs = video_inputs(frames, before, after, batch, seed)
    prompt = inputs["input_ids"].shape[1]
    with patched(llava, schedule) as trace:
        output = llava(**inputs)
        new = llava.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert trace.tokens == predicted
    assert torch.equal(new[:, :prompt], inputs["input_ids"])
    rows = embedded_video(llava, inputs, trace.tokens.merge_tokens, by)
    for row in range(batch):
        embedded = Embedded(*(part[row] for part in rows))
        moved = embedded.positions if positions == "kept" else None
        reference = Reference(llava.model.language_model, llava.lm_head, SLOW_SCORES)
        compare(reference, embedded, trace, row, output.logits, new[:, prompt:], moved)
