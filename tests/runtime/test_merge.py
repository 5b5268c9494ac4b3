import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from aim_cost.errors import ScheduleError
from aim_cost.schedules.merge import MERGE_KINDS
from aim_runtime.reduction.merge import (
    MERGE_PLANS,
    match_tokens,
    merge_passes,
    merge_tokens,
    random_pairs,
)
from tests.runtime.reference import slow_merge_tokens, slow_passes
from tests.runtime.support import shared_golden


@pytest.mark.parametrize("name", ["frame196", "odd25", "image576"])
def test_passes_are_bit_equal_to_the_recorded_ones(name):
    recorded = load_file(shared_golden("merge.safetensors"))
    outputs = [recorded[f"{name}.pass{i}"] for i in (1, 2, 3, 4)]
    features = recorded[f"{name}.input"]
    counts = (features.shape[1], *(output.shape[1] for output in outputs))
    for (ours, _), theirs in zip(merge_passes(features, counts), outputs, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(merge_tokens(features, counts), outputs[-1])


def test_a_partial_pass_is_bit_equal_to_the_recorded_one():
    recorded = load_file(shared_golden("merge.safetensors"))
    assert torch.equal(merge_tokens(recorded["r24.input"], (196, 172)), recorded["r24.output"])


@settings(max_examples=25, deadline=None)
@given(
    frames=st.integers(1, 3),
    tokens=st.integers(2, 17),
    by=st.sampled_from(sorted(MERGE_PLANS)),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_equals_the_slow_reference(frames, tokens, by, seed, data):
    counts = [tokens]
    while counts[-1] > 1 and len(counts) < 4:
        counts.append(counts[-1] - data.draw(st.integers(1, counts[-1] // 2)))
    features = torch.randn(frames, tokens, 8, generator=torch.Generator().manual_seed(seed))
    before = features.clone()
    expected = slow_merge_tokens(features.double(), tuple(counts), by).float()
    torch.testing.assert_close(merge_tokens(features, counts, by), expected)
    assert torch.equal(features, before), "the input was changed"
    places = torch.arange(tokens).expand(frames, -1)
    for _, plan in merge_passes(features, counts, by):
        places = plan.places(places)
    for frame, left in zip(features.double(), places.tolist(), strict=True):
        assert left == slow_passes(frame, tuple(counts), by)[1]


def test_every_way_of_the_language_has_a_plan():
    assert tuple(MERGE_PLANS) == MERGE_KINDS


def test_equal_runs_are_means_of_neighbours_in_order():
    features = torch.arange(12.0).view(1, 12, 1)
    quarters = merge_tokens(features, (12, 6, 3), "uniform")
    assert quarters.flatten().tolist() == [1.5, 5.5, 9.5]
    assert merge_tokens(features, (12, 8), "uniform").flatten().tolist() == [
        *(0, 1.5, 3, 4.5),
        *(6, 7.5, 9, 10.5),
    ]


def test_random_pairs_are_the_same_in_every_run_and_frame():
    keys = torch.randn(3, 20, 4)
    plan = random_pairs(keys, 7)
    again = random_pairs(torch.randn(1, 20, 9), 7)
    for name in ("unmerged", "sources", "targets"):
        for frame in getattr(plan, name):
            assert torch.equal(frame, getattr(again, name)[0])
    everything = torch.cat([plan.sources[0], plan.unmerged[0]])
    assert sorted(everything.tolist()) == list(range(10))
    assert plan.targets.max() < 10
    assert not torch.equal(plan.sources[0], match_tokens(keys, 7).sources[0])


def test_frames_do_not_mix():
    features = torch.randn(3, 10, 8)
    alone = [merge_tokens(frame[None], (10, 6, 4)) for frame in features]
    torch.testing.assert_close(merge_tokens(features, (10, 6, 4)), torch.cat(alone))


def test_one_count_merges_nothing():
    features = torch.randn(2, 5, 4)
    assert merge_tokens(features, (5,)) is features


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("tokens", [196, 25])
def test_baselines_multiply_nothing(tokens, device):
    features = torch.empty(4, tokens, 48, device=device).fill_(0.5)
    for by in ("random", "uniform"):
        with FlopCounterMode(display=False) as counter:
            kept = merge_tokens(features, (tokens, tokens - 5, tokens - 10), by)
        assert counter.get_total_flops() == 0
        assert kept.shape == (4, tokens - 10, 48)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("tokens", [196, 25])
def test_flops_are_those_of_the_similarities(tokens, device):
    features = torch.empty(4, tokens, 48, device=device).fill_(0.5)
    with FlopCounterMode(display=False) as counter:
        kept = merge_tokens(features, (tokens, tokens - 5, tokens - 10))
    pairs = sum(-(-t // 2) * (t // 2) for t in (tokens, tokens - 5))
    assert counter.get_total_flops() == 4 * 2 * pairs * 48
    assert kept.shape == (4, tokens - 10, 48)


def test_a_large_group_in_bfloat16_is_averaged_exactly():
    # 300 equal tokens go into one: counts and sums beyond 256 do not fit bfloat16
    features = torch.full((1, 601, 4), 3.0, dtype=torch.bfloat16)
    merged = match_tokens(features, 300).merge(features)
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, features[:, :301])


def test_the_plan_is_data():
    plan = match_tokens(torch.tensor([[[1.0, 0], [0, 1], [0, 2], [1, 1], [3, 1], [2, 0]]]), 2)
    assert plan.sources.tolist() == [[0, 1]]
    assert plan.targets.tolist() == [[2, 0]]
    assert plan.unmerged.tolist() == [[2]]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.sources = plan.targets


@pytest.mark.parametrize("remove", [0, 4, -1])
def test_refuses_more_than_half(remove):
    for decide in MERGE_PLANS.values():
        with pytest.raises(ScheduleError, match="1 to 3 of 7"):
            decide(torch.randn(1, 7, 4), remove)


def test_refuses_counts_of_another_model():
    with pytest.raises(ScheduleError, match="196"):
        merge_tokens(torch.randn(1, 9, 4), (196, 98))
