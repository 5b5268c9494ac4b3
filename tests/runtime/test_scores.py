"""Every score that runs: what it keeps is what its slow reference keeps."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aim_cost import Schedule
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.reduction.scores import LAYER_IMPORTANCE
from aim_runtime.reference import Reference
from tests.runtime.agree import GREEDY, check
from tests.runtime.models import BUILDERS, named_inputs
from tests.runtime.slow_scores import SLOW_SCORES
from tests.runtime.support import tiny_llava, tiny_qwen2
from tests.runtime.test_uneven import batch as uneven_batch
from tests.runtime.test_uneven import prompt as uneven_prompt

LAYERS = 4
IMAGES_AND_VIDEOS = [
    (family, prompt, name)
    for family, prompt, padded in (
        ("llava-1.5", "several images", False),
        ("llava-1.5", "padding", True),
        ("next-video", "images and a video", False),
        ("next-video", "other prompts", True),
    )
    for name in LAYER_IMPORTANCE
    # a forward without position_ids counts from the padding, which moves norms of keys; generate
    # does not: test_pivots_of_a_batch_are_those_of_each_prompt
    if name != "pivot-similarity" or not padded
]


def drawn(seed, batch, tokens, visual, before):
    """Embeddings, and masks whose rows have their visual tokens one place apart."""
    embeds = torch.randn(batch, tokens, 64, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    for row in range(batch):
        start = min(before + row, tokens - visual - 1)
        mask[row, start : start + visual] = True
    return embeds, mask


@pytest.mark.parametrize("name", LAYER_IMPORTANCE)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 9),
    before=st.integers(0, 9),
    after=st.integers(1, 9),
    visual=st.integers(2, 40),
    batch=st.integers(1, 3),
    padding=st.integers(0, 6),
    ratios=st.lists(st.integers(0, 32), min_size=1, max_size=LAYERS),
    attention=st.sampled_from(["sdpa", "eager"]),
)
def test_what_is_kept_is_what_the_reference_keeps(
    name, seed, before, after, visual, batch, padding, ratios, attention
):
    prune = Prune(ratios=tuple(n / 32 for n in sorted(ratios, reverse=True)), importance=name)
    model = tiny_qwen2(LAYERS, seed % 3)
    model.set_attn_implementation(attention)
    with torch.no_grad():  # weights of 1 would not show which norm a score is under
        for norm in [model.model.norm, *(layer.input_layernorm for layer in model.model.layers)]:
            norm.weight.copy_(torch.rand(64, generator=torch.Generator().manual_seed(seed)) + 0.2)
    embeds, mask = drawn(seed, batch, before + visual + after, visual, before)
    padded = torch.nn.functional.pad(embeds, (0, 0, padding, 0), value=3.0)
    real = torch.ones(batch, padded.shape[1], dtype=torch.long)
    real[:, :padding] = 0
    with patched(
        model, Schedule(prune=prune), visual_mask=torch.nn.functional.pad(mask, (padding, 0))
    ) as trace:
        model(inputs_embeds=padded, attention_mask=real)
    reference = Reference(model.model, model.lm_head, SLOW_SCORES)
    plan = Schedule(prune=prune).resolve_visual(
        VisualInput(1, visual, 0), text_tokens=before + after, layers=LAYERS
    )
    assert trace.rows[0].scored_layers == plan.scored_layers
    for row in range(batch):
        # without position_ids a forward counts from the padding, which moves the norms of keys
        positions = torch.arange(len(embeds[row])) + padding
        kept = reference.kept(embeds[row], mask[row], plan, positions=positions)
        assume(reference.smallest_margin > 1e-4)
        for layer, wanted in enumerate(kept):
            found = trace.kept[layer][row]
            assert (found[found >= padding] - padding).tolist() == wanted.nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("family", "prompt", "name"), IMAGES_AND_VIDEOS)
def test_images_and_videos(family, prompt, name):
    """From pixels to generated tokens, in batches with padding and with rows that differ."""
    model = BUILDERS[family]()
    check(
        model,
        named_inputs(model, family, prompt),
        Schedule(Merge(retention=0.7), Prune(ratios=(1, 0.5, 0.3), importance=name)),
    )


@pytest.mark.parametrize("videos", [(1, 1, 1), (1, 3, 2)], ids=["alike", "not alike"])
def test_pivots_of_a_batch_are_those_of_each_prompt(videos):
    llava = tiny_llava(5)
    schedule = Schedule(prune=Prune(ratios=(1, 0.6, 0.3), importance="pivot-similarity"))
    prompts = [
        uneven_prompt(number, seed, before=3 * seed, after=6) for seed, number in enumerate(videos)
    ]
    with patched(llava, schedule) as trace:
        new = llava.generate(**uneven_batch(prompts), **GREEDY)[:, -3:]
        kept = trace.kept
        for row, one in enumerate(prompts):
            assert torch.equal(new[row], llava.generate(**one, **GREEDY)[0, -3:])
            for together, alone in zip(kept, trace.kept, strict=True):
                padding = kept[0].shape[1] - trace.kept[0].shape[1]
                ours = together[row, -alone.shape[1] :] - padding
                assert torch.equal(ours, alone[0])
