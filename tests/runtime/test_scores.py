"""Every score that runs: what it keeps is what its slow reference keeps."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aim_cost import Schedule
from aim_cost.models.workload import VisualInput
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.reduction.scores import LAYER_IMPORTANCE
from aim_runtime.reference import Reference
from tests.runtime.slow_scores import SLOW_SCORES
from tests.runtime.support import tiny_qwen2

LAYERS = 4


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
