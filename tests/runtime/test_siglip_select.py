"""LLaVA-OneVision: a SigLIP tower without a class token, pooled from 5 x 5 patches to 3 x 3."""

import pytest
import torch

from aim_cost import Schedule
from aim_runtime import patched
from tests.runtime.slow_prompts import SLOW_SELECTIONS, SlowItem, SlowTower
from tests.runtime.support import FRAME_TOKENS, tiny_llava, video_inputs

BEFORE, AFTER, FRAMES = 5, 7, 4


def pooled(x):
    """x[views, 25, c] -> [views, 9, c]: each place takes the nearest patches by their distance."""
    weights = torch.zeros(3, 5)
    for place in range(3):
        centre = (place + 0.5) * 5 / 3 - 0.5
        for patch in range(5):
            weights[place, patch] = max(0, 1 - abs(centre - patch))
    grid = x.unflatten(1, (5, 5))
    return torch.einsum("ri,cj,vijk->vrck", weights, weights, grid).flatten(1, 2)


def slow_tower(model, views):
    """Queries and keys of the last layer, whose output is read."""
    tower = model.model.vision_tower
    states = tower(views, output_hidden_states=True).hidden_states
    layer = tower.encoder.layers[-1]
    projections = (layer.self_attn.q_proj, layer.self_attn.k_proj)
    normed = layer.layer_norm1(states[-2])
    parts = (project(normed).unflatten(-1, (2, -1)).transpose(1, 2) for project in projections)
    return SlowTower(*parts, 0, pooled)


@pytest.mark.parametrize("amount", ["prompt:14", "frame:3"])
@pytest.mark.parametrize(
    "by", ["vision-attention", "vision-attention-joined", "vision-attention-pairs"]
)
def test_videos_equal_the_slow_reference(by, amount):
    model, inputs = tiny_llava(), video_inputs(FRAMES, BEFORE, AFTER, batch=2)
    videos = inputs["pixel_values_videos"]
    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with patched(model, Schedule.parse(f"select {amount} score={by}")) as trace:
        model(**inputs)
    hook.remove()
    (ranked,) = trace.rows[0].selected
    kept = ranked.sets * ranked.kept
    assert (kept, ranked.sets) == {"prompt:14": (14, 1), "frame:3": (12, FRAMES)}[amount]
    features = model.model.get_video_features(videos).pooler_output
    for own, row, views in zip(features, seen[0], videos, strict=True):
        visual, margins = own.view(-1, own.shape[-1])[: FRAMES * FRAME_TOKENS], [1.0]
        item = SlowItem(
            *(visual, FRAMES, ranked.sets, ranked.kept),
            lambda views=views: slow_tower(model, views),
            row,
            margins.append,
        )
        tokens = SLOW_SELECTIONS[by](item)[1]
        assert min(margins) > 1e-6, "choose another seed"
        assert len(row) == BEFORE + kept + 1 + AFTER
        torch.testing.assert_close(row[BEFORE : BEFORE + kept], tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(row[BEFORE + kept], model.model.image_newline)
