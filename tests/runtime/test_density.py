"""Choices by density and segments, on videos whose frames and cells are alike or not."""

import pytest
import torch

import tests.runtime.slow_density  # noqa: F401  # registers its references
from aim_runtime.selection import SELECTIONS, Candidates
from aim_runtime.selection.density import cluster_sums, density_scores, squared_distances
from aim_runtime.selection.holitom import best_segments
from aim_runtime.selection.segments import dealt, similar_segments
from aim_runtime.selection.tower import TowerAttention
from tests.runtime.slow_density import all_lengths, saved
from tests.runtime.slow_selections import SLOW_SELECTIONS, SlowItem, SlowTower

NAMES = (
    *("vision-attention-dense", "frame-density"),
    *("vision-attention-still", "vision-attention-trees"),
)
TOKENS, WIDTH = 9, 16


def video(seed, frames, cuts=()):
    """[frames, TOKENS, WIDTH]: scenes in which two cells of three stand still."""
    draw = torch.Generator().manual_seed(seed)
    scene = torch.zeros(0)
    made = []
    for frame in range(frames):
        if frame == 0 or frame in cuts:
            scene = torch.randn(TOKENS, WIDTH, generator=draw) + 0.5
        moved = torch.randn(TOKENS, WIDTH, generator=draw)
        still = torch.arange(TOKENS)[:, None] % 3 > 0
        made.append(torch.where(still, scene + 0.25 * moved, scene + 1.5 * moved))
    return torch.stack(made)


def candidates(videos, sets, keep, seed=0):
    """Videos [items, frames, tokens, H] with a tower of two heads; and the same item by item."""
    items, frames, tokens, _ = videos.shape
    draw = torch.Generator().manual_seed(seed + 99)
    query, key = torch.randn(2, items * frames, tokens, 2, 8, generator=draw)
    tower = TowerAttention(query, key, 8**-0.5, 0, lambda x: x)
    of = Candidates(videos.flatten(1, 2), sets, frames // sets, keep, tower)
    slow, margins = [], [1.0]
    for item in range(items):
        here = slice(item * frames, (item + 1) * frames)
        one = SlowTower(query[here].transpose(1, 2), key[here].transpose(1, 2), 0, lambda x: x)
        slow.append(
            SlowItem(
                *(videos[item].flatten(0, 1), frames, sets, keep, lambda one=one: one),
                *(torch.zeros(0), margins.append),
            )
        )
    return of, slow, margins


CASES = [
    *(
        (name, *case)
        for name in NAMES
        for case in (
            (12, (3, 8), 12, 4),
            (12, (3, 8), 1, 37),
            (12, (5,), 1, 90),
            (10, (), 10, 7),
            (9, (4,), 1, 5),
            (2, (), 1, 6),
            (1, (), 1, 5),
            (3, (1,), 3, 1),
            (5, (), 1, 44),
        )
    ),
    ("vision-attention-trees", 20, (), 1, 60),
    ("vision-attention-trees", 20, (9,), 20, 5),
]


@pytest.mark.parametrize(("name", "frames", "cuts", "sets", "keep"), CASES)
def test_what_stays_is_what_the_reference_keeps(name, frames, cuts, sets, keep):
    videos = torch.stack([video(seed, frames, cuts) for seed in (1, 2)])
    of, slow, margins = candidates(videos, sets, keep)
    kept = SELECTIONS[name](of)
    for item, one in enumerate(slow):
        places, features = SLOW_SELECTIONS[name](one)
        assert min(margins) > 1e-6, "choose another seed"
        assert kept.places[item].tolist() == places
        torch.testing.assert_close(kept.features[item], features, rtol=1e-4, atol=1e-4)


def test_each_keeps_others_than_the_others_and_than_the_most_attended():
    of, _, _ = candidates(video(3, 12, (4,))[None], 12, 4)
    names = ("vision-attention", *NAMES)
    kept = [tuple(SELECTIONS[name](of).places[0].tolist()) for name in names]
    assert len(set(kept)) == len(names)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [1, 4, 8])
def test_equal_frames_and_tokens_keep_as_many(name, keep):
    """All cells of all frames alike: every choice is a tie."""
    of, _, _ = candidates(torch.ones(1, 12, TOKENS, WIDTH), 12, keep)
    kept = SELECTIONS[name](of)
    assert kept.places.shape == (1, 12 * keep)
    assert (kept.places[0].diff() > 0).all()
    assert (kept.places[0] // TOKENS).bincount().tolist() == [keep] * 12
    torch.testing.assert_close(kept.features, torch.ones(1, 12 * keep, WIDTH))


@pytest.mark.parametrize("name", NAMES)
def test_the_dtype_stays(name):
    of, _, _ = candidates(video(1, 4)[None].bfloat16(), 1, 9)
    assert SELECTIONS[name](of).features.dtype == torch.bfloat16


def test_what_is_dealt_out_is_all_and_no_more_than_there_is():
    sizes = torch.tensor([[3, 0, 5, 1], [4, 4, 4, 4]])
    for total in range(10):
        parts = dealt(total, sizes)
        assert parts.sum(1).tolist() == [total, total]
        assert (parts <= sizes).all() and (parts >= 0).all()


def test_segments_end_at_low_cosines_and_are_at_least_so_many():
    angle = torch.tensor([0.0, 0.1, 1.0, 1.1, 1.3])
    means = torch.stack([angle.cos(), angle.sin()], dim=1)[None]
    assert similar_segments(means, 0.9, 1)[0].tolist() == [0, 0, 1, 1, 1]
    assert similar_segments(means, 0.9, 3)[0].tolist() == [0, 0, 1, 1, 2]
    assert similar_segments(means, 0.9, 9)[0].tolist() == [0, 1, 2, 3, 4]


def test_the_best_segments_are_the_best_of_all():
    draw = torch.Generator().manual_seed(5)
    still = torch.rand(40, 6, 5, generator=draw) < 0.7
    for cells, segment in zip(still, best_segments(still), strict=True):
        wanted = max(all_lengths(7), key=lambda way: saved(cells.tolist(), way))
        assert segment.bincount()[1:].tolist() == wanted


def test_a_lone_dense_token_is_the_first_centre_and_duplicates_are_not_two():
    x = torch.tensor([[0.0], [0.0], [0.1], [5.0], [5.1]])
    squares, near = squared_distances(x), torch.ones(5, 5, dtype=torch.bool)
    order = density_scores(squares, near, 2).argsort(descending=True).tolist()
    assert order[:2] == [0, 3]
    centres = torch.tensor([True, False, False, True, False])
    sums, members = cluster_sums(x, squares, near, centres)
    assert members[:, 0].tolist() == [3, 0, 0, 2, 0]
    torch.testing.assert_close(sums[centres][:, 0], torch.tensor([0.1, 10.1]))
