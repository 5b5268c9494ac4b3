"""The physical drop equals masking, over random models, prompts and schedules."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aim_cost.merge import Merge
from aim_cost.prune import Prune
from aim_cost.schedule import Schedule
from aim_cost.workload import VisualInput
from aim_runtime import patched
from aim_runtime.reference import Reference
from tests.runtime.reference import embedded_video, language_model
from tests.runtime.support import FRAME_TOKENS, tiny_llava, tiny_qwen2, video_inputs

LAYERS = 5
NEW_TOKENS = 3

ratios = st.lists(st.floats(0, 1), min_size=1, max_size=LAYERS)
linear = st.tuples(st.integers(0, LAYERS - 1), st.integers(1, 9)).filter(lambda p: p[0] < p[1])
prunes = st.one_of(
    ratios.map(lambda r: Prune(ratios=tuple(sorted(r, reverse=True)))),
    linear.map(lambda pair: Prune(linear=pair)),
)


def decided(reference, embeds, visual, counts):
    """The reference's kept sets, where fp32 can tell the last kept token from the first dropped."""
    kept = reference.kept(embeds, visual, counts)
    assume(reference.smallest_margin > 1e-3)
    return kept


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
    model = tiny_qwen2(LAYERS, seed)
    model.set_attn_implementation(attention)
    tokens = before + visual_tokens + after
    embeds = torch.randn(batch, tokens, 64)
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    for row in range(batch):  # the second prompt has its video elsewhere
        start = before if row == 0 else after - 1
        mask[row, start : start + visual_tokens] = True
    schedule = Schedule(prune=prune)
    reference = Reference(model)
    with patched(model, schedule, visual_mask=mask) as trace:
        output = model(inputs_embeds=embeds)
        new = model.generate(inputs_embeds=embeds, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert trace.tokens == schedule.resolve_visual(
        VisualInput(1, visual_tokens, 0), text_tokens=before + after, layers=LAYERS, batch=batch
    )
    assert trace.cache_tokens == trace.tokens.attention_tokens
    for row in range(batch):
        counts = trace.tokens.attention_tokens
        kept = decided(reference, embeds[row], mask[row], counts)
        for layer in range(LAYERS + 1):
            assert trace.kept[layer][row].tolist() == kept[layer].nonzero()[:, 0].tolist()
        expected = reference.logits(embeds[row], kept)[kept[-1]]
        torch.testing.assert_close(output.logits[row], expected, rtol=1e-3, atol=1e-3)
        assert new[row].tolist() == reference.generate(embeds[row], kept, NEW_TOKENS)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    prune=st.none() | prunes,
    kept_per_frame=st.integers(1, FRAME_TOKENS),
    frames=st.integers(1, 4),
    before=st.integers(0, 5),
    after=st.integers(1, 6),
    seed=st.integers(0, 3),
    batch=st.integers(1, 2),
)
def test_merging_and_pruning_a_video(prune, kept_per_frame, frames, before, after, seed, batch):
    llava = tiny_llava(LAYERS, seed)
    schedule = Schedule(Merge(tokens_per_frame=kept_per_frame), prune)
    inputs = video_inputs(frames, before, after, batch, seed)
    prompt = inputs["input_ids"].shape[1]
    with patched(llava, schedule) as trace:
        output = llava(**inputs)
        new = llava.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert trace.tokens == schedule.resolve_visual(
        VisualInput(frames, FRAME_TOKENS, 1),
        text_tokens=before + after,
        layers=LAYERS,
        batch=batch,
    )
    assert torch.equal(new[:, :prompt], inputs["input_ids"])
    embeds, visual = embedded_video(llava, inputs, trace.tokens.merge_tokens)
    reference = Reference(language_model(llava))
    for row in range(batch):
        counts = trace.tokens.attention_tokens
        kept = decided(reference, embeds[row], visual[row], counts)
        for layer in range(LAYERS + 1):
            assert trace.kept[layer][row].tolist() == kept[layer].nonzero()[:, 0].tolist()
        expected = reference.logits(embeds[row], kept)[kept[-1]]
        torch.testing.assert_close(output.logits[row], expected, rtol=1e-3, atol=1e-3)
        assert new[row, prompt:].tolist() == reference.generate(embeds[row], kept, NEW_TOKENS)
