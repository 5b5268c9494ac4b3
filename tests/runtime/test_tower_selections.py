"""Ways to choose by the tower's attention, on sets that no tiny model makes, against slow ones."""

import pytest
import torch

from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_runtime.selection import SELECTIONS, Candidates
from aim_runtime.selection.tower import TowerAttention
from tests.runtime.slow_prompts import SLOW_SELECTIONS, SlowItem, SlowTower

HEADS, HEAD_DIM = 2, 6
BY = [name for name in SELECTIONS if VISUAL_SCORES[name].reads_tower]


def pooled(x, class_tokens):
    return x[:, class_tokens:]


def made(items, views, each, class_tokens, seed=0):
    """Features [items, tokens, 10] and a tower of all the views, of each item."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(items, views * each, 10, generator=generator)
    shape = (2, items * views, class_tokens + each, HEADS, HEAD_DIM)
    query, key = torch.randn(shape, generator=generator)
    return features, TowerAttention(
        query, key, HEAD_DIM**-0.5, class_tokens, lambda x: pooled(x, class_tokens)
    )


def slow(features, tower, sets, keep, by):
    """What stays of one item: its places and features."""
    views = len(tower.query)
    margins = [1.0]

    def read():
        query, key = tower.query.transpose(1, 2), tower.key.transpose(1, 2)
        return SlowTower(query, key, tower.class_tokens, tower.pooled)

    item = SlowItem(features, views, sets, keep, read, torch.empty(0), margins.append)
    found = SLOW_SELECTIONS[by](item)
    assert min(margins) > 1e-6, "choose another seed"
    return found


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(
    ("views", "each", "sets", "keep"),
    [
        (1, 80, 1, 33),
        (1, 40, 1, 39),
        (2, 45, 2, 17),
        (3, 23, 1, 20),
        (3, 23, 1, 1),
        (2, 9, 2, 2),
        (1, 2, 1, 1),
    ],
)
def test_items_equal_the_slow_reference(by, views, each, sets, keep):
    features, tower = made(2, views, each, class_tokens=views % 2)
    kept = SELECTIONS[by](Candidates(features, sets, views // sets, keep, tower))
    for number in range(2):
        own = tower.take(slice(number * views, (number + 1) * views))
        places, tokens = slow(features[number], own, sets, keep, by)
        assert kept.places[number].tolist() == places
        torch.testing.assert_close(kept.features[number], tokens)


@pytest.mark.parametrize("by", BY)
def test_equal_tokens_favour_the_earlier_one(by):
    features, tower = torch.ones(1, 12, 10), made(1, 1, 12, 1)[1]
    alike = TowerAttention(
        torch.ones_like(tower.query), torch.ones_like(tower.key), 1.0, 1, tower.pooled
    )
    kept = SELECTIONS[by](Candidates(features, 1, 1, 5, alike))
    places = {
        # the first four, then every second of eight
        "vision-attention-joined": [0, 1, 2, 3, 4],
        # one outlier; three of the eleven others at steps of three; the first of the rest
        "vision-attention-spread": [0, 1, 2, 4, 7],
        # the first two; of the ten others 2, 4, 6, 8, 10 leave, then 3 and 7
        "vision-attention-varied": [0, 1, 5, 9, 11],
    }
    assert kept.places[0].tolist() == places.get(by, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("by", [name for name in BY if "contextual" in name or "pairs" in name])
def test_half_precision_is_merged_in_single(by):
    features, tower = made(1, 1, 80, 1)
    features = features.bfloat16()
    kept = SELECTIONS[by](Candidates(features, 1, 1, 33, tower))
    exact = SELECTIONS[by](Candidates(features.float(), 1, 1, 33, tower))
    assert torch.equal(kept.places, exact.places)
    assert torch.equal(kept.features, exact.features.bfloat16())
