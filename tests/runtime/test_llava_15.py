"""LLaVA-1.5: every prompt that it takes, against the mask-based reference."""

import pytest
import torch

from aim_cost.merge import MERGE_KINDS, POSITIONS, Merge
from aim_cost.prune import DROP_POINTS, Prune
from aim_cost.schedule import Schedule
from aim_runtime import patched
from tests.runtime.agree import GREEDY, check
from tests.runtime.models import batch_of, prompt_of, tiny_llava_15

PRUNE = Prune(linear=(1, 4))
BOTH = Schedule(Merge(passes=(5, 3)), PRUNE)
PROMPTS = {
    "one image": [(4, "image", 5)],
    "several images": [(4, "image", 2, "image", "image", 5)],
    "a batch": [(4, "image", 5), (2, "image", 7)],
    "padding": [(2, "image", 3), (6, "image", 5), ("image", 4)],
    "other numbers": [(2, "image", 3, "image", 4), (6, "image", 5), (2, "image", "image", "image", 3)],
    "text beside images": [(2, "image", 3, "image", 4), (6,)],
}


def inputs_of(model, name):
    return batch_of([prompt_of(model, parts, seed=i) for i, parts in enumerate(PROMPTS[name])])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("drop_point", DROP_POINTS)
def test_every_prompt(name, positions, drop_point, attention):
    model = tiny_llava_15()
    model.set_attn_implementation(attention)
    merge = Merge(passes=(5, 3), positions=positions)
    check(model, inputs_of(model, name), Schedule(merge, Prune(linear=(1, 4), drop_point=drop_point)))
