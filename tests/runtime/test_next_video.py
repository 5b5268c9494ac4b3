"""LLaVA-NeXT-Video: every prompt that it takes, against the mask-based reference."""

import pytest
import torch

from aim_cost.merge import MERGE_KINDS, POSITIONS, Merge
from aim_cost.prune import DROP_POINTS, Prune
from aim_cost.schedule import Schedule
from aim_runtime import patched
from tests.runtime.agree import GREEDY, check
from tests.runtime.models import batch_of, prompt_of, tiny_next_video

WIDE, TALL, ODD = (50, 100), (100, 40), (40, 90)
PROMPTS = {
    "a video": [(4, "video 3", 5)],
    "several videos": [(4, "video 2", "video 2", 5), (1, "video 2", 3, "video 2", 9)],
    "an image": [(4, WIDE, 5)],
    "several images": [(4, WIDE, 3, TALL, ODD, 5)],
    "images and a video": [(4, WIDE, 3, "video 3", TALL, 5)],
    "padding": [(4, "video 3", 5), (9, "video 3", 2)],
    "other prompts": [(2, "video 2", 3, ODD, 4), (6, "video 2", 5), (2, TALL, "video 2", WIDE, 3)],
    "text beside videos": [(2, "video 2", 4), (6,)],
}


def inputs_of(model, name):
    return batch_of([prompt_of(model, parts, seed=i) for i, parts in enumerate(PROMPTS[name])])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("drop_point", DROP_POINTS)
def test_every_prompt(name, positions, drop_point, attention):
    model = tiny_next_video()
    model.set_attn_implementation(attention)
    merge = Merge(retention=0.4, positions=positions)
    check(model, inputs_of(model, name), Schedule(merge, Prune(linear=(1, 4), drop_point=drop_point)))
