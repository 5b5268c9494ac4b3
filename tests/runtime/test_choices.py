"""Ways to choose tokens by similarity and by frames, on features alone: sizes, ties, counts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aim_cost import Case, Workload
from aim_cost.methods import get_method
from aim_cost.ops.kind import Steps
from aim_cost.ops.visual_scores import VISUAL_SCORES, VisualSize
from aim_runtime.selection import SELECTIONS, Candidates
from tests.runtime import slow_frames, slow_similarity  # noqa: F401  # they register themselves
from tests.runtime.slow_selections import SLOW_SELECTIONS, SlowItem

BY_FRAMES = ("adjacent-cosine", "groups-of-four", "groups-of-four-loop", "frame-centres")
BY_SIMILARITY = ("pairwise-cosine", "determinantal")


def features(items: int, tokens: int, hidden: int = 24, seed: int = 0) -> Tensor:
    return torch.randn(items, tokens, hidden, generator=torch.Generator().manual_seed(seed))


def places(by: str, of: Candidates) -> list[list[int]]:
    return SELECTIONS[by](of).places.tolist()


def slow_places(by: str, of: Candidates) -> list[list[int]]:
    found = []
    for number, x in enumerate(of.features):
        text = of.texts[number] if of.texts else x[:0]
        frames, margins = of.sets * of.frames, [1.0]
        item = SlowItem(x, frames, of.sets, of.keep, lambda: None, text, margins.append)
        found.append(SLOW_SELECTIONS[by](item)[0])
        assert min(margins) > 1e-5, "choose another seed"
    return found


@pytest.mark.parametrize("by", BY_FRAMES)
@pytest.mark.parametrize("frames", [2, 3, 4, 5, 6, 7, 8, 9])
def test_videos_of_any_length_equal_the_reference(by, frames):
    x = features(2, 7 * frames, seed=frames)
    for keep in (1, frames, 3 * frames, 7 * frames - 1):
        of = Candidates(x, 1, frames, keep)
        assert places(by, of) == slow_places(by, of), keep
    of = Candidates(x, frames, 1, 3)
    assert places(by, of) == slow_places(by, of)


@pytest.mark.parametrize("by", BY_SIMILARITY)
def test_sets_texts_and_counts_equal_the_reference(by):
    x, texts = features(2, 20), (features(1, 3)[0], features(1, 6, seed=1)[0])
    for sets, keep in ((1, 1), (1, 2), (1, 19), (4, 3)):
        of = Candidates(x, sets, 1, keep, texts=texts)
        assert places(by, of) == slow_places(by, of)


@pytest.mark.parametrize("by", BY_SIMILARITY)
def test_equal_tokens_are_chosen_once_and_the_earlier_first(by):
    x = torch.eye(4)[None, [0, 0, 1, 1, 1, 2]]
    for keep, wanted in ((3, [0, 2, 5]), (4, [0, 1, 2, 5]), (5, [0, 1, 2, 3, 5])):
        assert places(by, Candidates(x, 1, 1, keep, texts=(x[0, :1],))) == [wanted]


def test_a_determinant_beyond_the_rank_takes_the_earlier_tokens():
    """30 tokens of 5 dimensions: five are chosen for their volume, then from the first on."""
    x = features(1, 30, hidden=5)
    text = (features(1, 2, hidden=5, seed=3)[0],)
    five = places("determinantal", Candidates(x, 1, 1, 5, texts=text))[0]
    more = places("determinantal", Candidates(x, 1, 1, 12, texts=text))[0]
    assert five == slow_places("determinantal", Candidates(x, 1, 1, 5, texts=text))[0]
    assert more == sorted([*five, *[p for p in range(30) if p not in five][:7]])


def test_without_text_all_tokens_are_equally_relevant():
    x = features(1, 12)
    alone = places("determinantal", Candidates(x, 1, 1, 5, texts=(x[0, :0],)))
    opposite = torch.cat([x[0, :1], -x[0, :1]])  # mean cosine 0
    assert alone == places("determinantal", Candidates(x, 1, 1, 5, texts=(opposite,)))


@pytest.mark.parametrize("frames", [5, 6, 7, 8, 9, 12])
@pytest.mark.parametrize("p", [0.5, 0.7, 1])
def test_dycoke_keeps_what_the_loop_of_its_code_keeps(frames, p):
    """Whole frames, and of the others as many each as its code keeps; read from its two loops."""
    tokens, each = 12, int((1 - p) * 12)
    dropped = {i + 1 for i in range(0, frames - 1, 2)} | {i + 2 for i in range(0, frames - 4, 4)}
    lost = {frames - 1} if frames % 2 else set()
    wanted = [0 if f in lost else each if f in dropped else tokens for f in range(frames)]
    of = Candidates(features(1, frames * tokens), 1, frames, sum(wanted))
    found = torch.tensor(places("groups-of-four-loop", of)[0]) // tokens
    assert found.bincount(minlength=frames).tolist() == wanted


def test_dycokes_schedule_has_that_count():
    method = get_method("dycoke")
    case = Case("llava-onevision-qwen2-0.5b", Workload(10, frames=10), "h100-sxm")
    for p in (0.5, 0.7, 1):
        schedule = method.schedule(case.model, case.workload, p=p)
        assert schedule.select.by == "groups-of-four-loop"
        assert schedule.select.tokens == 3 * 196 + 7 * int((1 - p) * 196)
    stated = method.schedule(case.model, case.workload, loop=0).select
    assert (stated.by, stated.retention) == ("groups-of-four", 1 - 0.75 * 0.7)


def test_the_stated_share_keeps_a_quarter_whole():
    of = Candidates(features(1, 8 * 10), 1, 8, int(80 * (1 - 0.75 * 0.7)))
    counts = (torch.tensor(places("groups-of-four", of)[0]) // 10).bincount(minlength=8)
    assert counts.tolist() == [10, 3, 3, 3, 10, 3, 3, 3]


def test_the_first_frame_stays_whole_before_all_others():
    x = features(1, 6 * 8)
    assert places("adjacent-cosine", Candidates(x, 1, 6, 8))[0] == list(range(8))
    x[:, 16:24] = -x[:, 8:16]  # the third frame is the opposite of the second
    found = places("adjacent-cosine", Candidates(x, 1, 6, 16))[0]
    assert found == [*range(8), *range(16, 24)]


@pytest.mark.parametrize(("keep", "wanted"), [(4, [1, 2, 1]), (7, [2, 4, 1]), (8, [2, 4, 2])])
def test_the_frame_far_from_the_others_keeps_more(keep, wanted):
    """Shares are 5/3 and 2/3 of the mean; their plain roundings sum to 4 and 8, but not to 7."""
    x = features(1, 3 * 20) * 0.01 + 1
    x[:, 20:40] *= torch.linspace(-1, 1, 24)
    found = torch.tensor(places("frame-centres", Candidates(x, 1, 3, keep))[0]) // 20
    assert found.bincount(minlength=3).tolist() == wanted


def test_no_frame_has_two_tokens_before_another_has_one():
    """Shares are 1.5 and 0.5: the second turn of one is as early as the first of the other."""
    x = features(1, 2 * 20) * 0.01 + 1
    x[:, 1:20:2] *= torch.linspace(-1, 1, 24)
    assert [p // 20 for p in places("frame-centres", Candidates(x, 1, 2, 2))[0]] == [0, 1]


def test_a_frame_keeps_no_more_than_it_has():
    """Shares are 30 and 12 of 20 tokens each: what one frame cannot take goes to the others."""
    x = features(1, 3 * 20) * 0.01 + 1
    x[:, 20:40] *= torch.linspace(-1, 1, 24)
    found = torch.tensor(places("frame-centres", Candidates(x, 1, 3, 54))[0]) // 20
    assert found.bincount(minlength=3).tolist() == [17, 20, 17]


def test_each_frame_keeps_a_token_while_there_are_as_many():
    x = features(1, 10 * 4)
    for keep, frames in ((4, 4), (10, 10), (12, 10)):
        found = torch.tensor(
            places("frame-centres", Candidates(x[:, : 4 * frames], 1, frames, keep))[0]
        )
        assert (found // 4).unique().numel() == frames


class Launched(TorchDispatchMode):
    """Counts operations that start a kernel: all but views and empty memory."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = func.is_view or func.name().split(".")[0] in ("aten::empty", "aten::new_empty")
        self.count += not views
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("by", BY_SIMILARITY)
def test_the_launches_of_a_step_are_those_priced(by):
    x = torch.empty(2, 40, 16, device="meta")
    of = Candidates(x, 2, 1, 5, texts=(x[0, :4], x[0, :4]))

    def launched(keep: int) -> int:
        with Launched() as seen:
            SELECTIONS[by](replace(of, keep=keep))
        return seen.count

    size = VisualSize(*(2, 4, 20, 5, 1), vision=None, hidden=16, width=2, text_tokens=4)
    (kind,) = [op.kind for op in VISUAL_SCORES[by].ops(size) if isinstance(op.kind, Steps)]
    assert kind.steps == 5
    assert launched(6) - launched(5) == launched(7) - launched(6) == kind.kernels
