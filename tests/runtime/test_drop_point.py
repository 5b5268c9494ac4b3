"""What leaves after the attention of a layer, instead of after the layer, changes nothing left."""

import pytest
import torch

from aim_cost import Schedule
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import DROP_POINTS, Prune
from aim_runtime import patched
from aim_runtime.reduction.scores import LAYER_IMPORTANCE
from aim_runtime.seams import cache_of
from tests.runtime.support import tiny_qwen2, video_inputs

LAYERS = 6
# something leaves in the last layer too
RATIOS = (1, 0.75, 0.75, 0.5, 0.25, 0.125)


def run(model, ratios, drop_point, importance="pagerank", **call):
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[:, 4:36] = True
    prune = Prune(ratios=ratios, drop_point=drop_point, importance=importance)
    with patched(model, Schedule(prune=prune), visual_mask=mask) as trace:
        output = model(inputs_embeds=torch.randn(1, 40, 64, generator=generator()), **call)
        return output, trace.tokens, trace.kept


def generator():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "importance", [name for name in LAYER_IMPORTANCE if not LAYER_SCORES[name].whole_layer]
)
def test_what_stays_is_the_same(attention, importance):
    model = tiny_qwen2(LAYERS)
    model.set_attn_implementation(attention)
    late, early = (run(model, RATIOS, point, importance) for point in DROP_POINTS)
    assert early[1].attention_tokens == late[1].attention_tokens == (40, 40, 32, 32, 24, 16)
    assert late[1].mlp_tokens == late[1].attention_tokens
    assert early[1].mlp_tokens == (40, 32, 32, 24, 16, 12)
    assert (late[1].scored_layers, early[1].scored_layers) == ((1, 3, 4), (1, 3, 4, 5))
    assert all(torch.equal(*pair) for pair in zip(late[2][:LAYERS], early[2], strict=False))
    left = torch.isin(late[2][-1][0], early[2][-1][0])
    torch.testing.assert_close(early[0].logits, late[0].logits[:, left], rtol=0, atol=1e-5)
    caches = (cache_of(run[0]).layers for run in (late, early))
    for one, other in zip(*caches, strict=True):
        assert one.keys.shape == other.keys.shape
        torch.testing.assert_close(one.keys, other.keys, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-6)


def test_all_visual_tokens_may_leave_in_the_last_layer():
    model = tiny_qwen2(LAYERS)
    output, tokens, _ = run(model, (1, 1, 1, 1, 1, 0), "after_attention")
    assert tokens.attention_tokens == (40,) * LAYERS
    assert tokens.mlp_tokens == (40,) * (LAYERS - 1) + (8,)
    assert tokens.scored_layers == ()
    text = run(model, (1,), "layer")[0].logits[:, [*range(4), *range(36, 40)]]
    torch.testing.assert_close(output.logits, text, rtol=0, atol=1e-5)


def test_hidden_states_shrink_inside_the_layers():
    output, tokens, _ = run(
        tiny_qwen2(LAYERS), RATIOS, "after_attention", output_hidden_states=True
    )
    assert [x.shape[1] for x in output.hidden_states] == [40, *tokens.mlp_tokens]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generation_is_the_same(llava, attention):
    llava.set_attn_implementation(attention)
    inputs = video_inputs(batch=2)
    new = []
    for point in DROP_POINTS:
        schedule = Schedule(Merge(passes=(5, 3)), Prune(linear=(1, 4), drop_point=point))
        with patched(llava, schedule):
            new.append(llava.generate(**inputs, max_new_tokens=5, do_sample=False))
    assert torch.equal(*new)
