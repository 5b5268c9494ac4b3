from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from aim_cost.case.memory import scoring_bytes
from aim_cost.ops import formulas
from aim_cost.schedules.prune import Prune
from aim_runtime.measurement.memory import track_peak_bytes
from aim_runtime.reduction.importance import (
    pagerank_causal_importance,
    pagerank_importance,
    text_attention_importance,
)
from aim_runtime.reduction.scores import LAYER_IMPORTANCE, Attended, Choice
from aim_runtime.reduction.select import select_tokens, take_tokens
from aim_runtime.reduction.text_rows import question_importance, rater_importance, text_raters
from tests.cost.blocks import block_causal_entries
from tests.runtime.reference import full_importance
from tests.runtime.support import shared_golden


def random_heads(batch=2, heads=6, kv_heads=2, tokens=19, dim=8, seed=0, **kwargs):
    torch.manual_seed(seed)
    return (
        torch.randn(batch, heads, tokens, dim, **kwargs),
        torch.randn(batch, kv_heads, tokens, dim, **kwargs),
    )


@pytest.mark.parametrize("name", ["a", "b"])
def test_equals_the_recorded_scores(name):
    recorded = load_file(shared_golden("importance.safetensors"))
    query = recorded[f"{name}.query"]
    scores = pagerank_importance(query, recorded[f"{name}.key"], scaling=query.shape[-1] ** -0.5)
    torch.testing.assert_close(scores, recorded[f"{name}.importance"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (6, 2), (4, 1)])
def test_equals_all_heads_at_once(heads, kv_heads):
    query, key = random_heads(heads=heads, kv_heads=kv_heads)
    expected = full_importance(query.double(), key.double(), 0.3)
    torch.testing.assert_close(
        pagerank_importance(query, key, scaling=0.3), expected.float(), rtol=1e-4, atol=1e-7
    )


def test_the_total_rank_of_one_head_stays_one():
    query, key = random_heads(heads=1, kv_heads=1)
    assert torch.allclose(pagerank_importance(query, key, scaling=0.3).sum(1), torch.ones(2))


BLOCKS = (1, 7, 8, 9, 16, 19, 40)  # tokens below, at and above whole blocks of 8 rows


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(formulas, "IMPORTANCE_ROWS", 8)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("tokens", BLOCKS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (6, 2), (4, 1)])
def test_blocks_of_rows_equal_the_whole_matrix(tokens, heads, kv_heads):
    query, key = random_heads(heads=heads, kv_heads=kv_heads, tokens=tokens)
    expected = full_importance(query.double(), key.double(), 0.3).float()
    scores = pagerank_importance(query, key, scaling=0.3)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("tokens", [255, 256, 257, 600])
def test_blocks_as_large_as_they_are_equal_the_whole_matrix(tokens):
    query, key = random_heads(batch=1, tokens=tokens)
    expected = full_importance(query.double(), key.double(), 0.1).float()
    scores = pagerank_importance(query, key, scaling=0.1)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_any_number_of_steps(iterations):
    query, key = random_heads()
    scores = pagerank_importance(query, key, scaling=0.3, iterations=iterations)
    expected = full_importance(query.double(), key.double(), 0.3, iterations).float()
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_of_a_layer_are_left_alone(dtype):
    query, key = random_heads(dtype=dtype)
    before = query.clone(), key.clone()
    pagerank_importance(query, key, scaling=0.3)
    assert torch.equal(query, before[0])
    assert torch.equal(key, before[1])


class Largest(TorchDispatchMode):
    """The most elements that an operation's output holds."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "name", ["pagerank", "pagerank-causal", "text-attention", "attention-columns"]
)
def test_no_step_needs_memory_quadratic_in_tokens(name, padded, dtype):
    """At 20 000 tokens; one head's matrix would hold 400 million entries."""
    heads, tokens = 14, 20_000
    query, key = random_heads(1, heads, 2, tokens, 64, device="meta", dtype=dtype)
    padding = torch.zeros(1, dtype=torch.int64, device="meta") if padded else None
    visual = torch.ones(1, tokens, dtype=torch.bool, device="meta")
    at = Attended(Choice(visual, 0, padding, tokens, 100, visual), query, key, 0.1)
    with Largest() as largest:
        LAYER_IMPORTANCE[name](at)
    assert largest.elements <= heads * formulas.IMPORTANCE_ROWS * tokens < tokens**2 / 5


@pytest.mark.parametrize("text", [100, 10_000])
def test_rows_of_text_need_no_memory_quadratic_in_tokens(text):
    heads, tokens = 14, 20_000
    query, key = random_heads(1, heads, 2, tokens, 64, device="meta", dtype=torch.bfloat16)
    visual = torch.ones(1, tokens, dtype=torch.bool, device="meta")
    embeds = torch.empty(1, tokens, 896, dtype=torch.bfloat16, device="meta")
    with Largest() as largest:
        raters = text_raters(embeds, visual, text, None)
        given = {"scaling": 0.1, "visual": visual, "text": text}
        rater_importance(query, key, raters=raters, **given)
        question_importance(query, key, question=raters, **given)
    assert largest.elements <= heads * formulas.IMPORTANCE_ROWS * tokens < tokens**2 / 5


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", BLOCKS)
def test_flops_are_those_of_the_blocks(tokens, dtype, device):
    query, key = random_heads(tokens=tokens, device=device, dtype=dtype)
    batch, heads, _, dim = query.shape
    entries = batch * heads * block_causal_entries(tokens, rows=8)
    for score, steps in ((pagerank_importance, 5), (pagerank_causal_importance, 1)):
        with FlopCounterMode(display=False) as counter:
            scores = score(query, key, scaling=0.3)
        expected = formulas.importance_flops(batch, heads, tokens, dim, steps)
        assert counter.get_total_flops() == expected == entries * (2 * dim + 2 * steps)
        assert (scores.shape, scores.dtype) == ((batch, tokens), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [100, 256, 700, 3000])
def test_the_peak_is_the_one_that_is_predicted(tokens, dtype):
    text = SimpleNamespace(num_attention_heads=14, head_dim=64)
    query, key = (
        torch.empty(1, tokens, count, 64, device="meta", dtype=dtype).transpose(1, 2)
        for count in (14, 2)
    )
    peak = track_peak_bytes(lambda: pagerank_importance(query, key, scaling=0.1)).peak_bytes
    predicted = scoring_bytes(text, 1, tokens, dtype.itemsize)
    assert predicted <= peak == pytest.approx(predicted, rel=1e-3)


def causal_importance(query, key, scaling):
    """One entry at a time, from the definition."""
    heads, tokens = query.shape[1:3]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    logits = query @ key.transpose(2, 3) * scaling / 0.1
    scores = torch.zeros(len(query), tokens, dtype=query.dtype)
    for row in range(len(query)):
        for j in range(tokens):
            means = [
                sum(logits[row, h, i, : i + 1].softmax(0)[j] for i in range(j, tokens))
                / (tokens - j)
                for h in range(heads)
            ]
            scores[row, j] = (sum(mean**2 for mean in means) / heads) ** 0.5
    return scores


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("tokens", [7, 13])
def test_one_causal_step_is_the_mean_over_the_rows_that_see_a_token(tokens):
    query, key = random_heads(tokens=tokens)
    expected = causal_importance(query.double(), key.double(), 0.3).float()
    scores = pagerank_causal_importance(query, key, scaling=0.3)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-7)


def test_text_attention_is_the_last_row_of_the_layer():
    query, key = random_heads()
    every = key.repeat_interleave(3, dim=1)
    expected = (query[:, :, -1:] @ every.transpose(2, 3) * 0.3).softmax(-1).mean(1)[:, 0]
    scores = text_attention_importance(query, key, scaling=0.3)
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_of_text_attention(device):
    query, key = random_heads(device=device)
    batch, heads, tokens, dim = query.shape
    with FlopCounterMode(display=False) as counter:
        scores = text_attention_importance(query, key, scaling=0.3)
    assert counter.get_total_flops() == 2 * batch * heads * tokens * dim
    assert (scores.shape, scores.dtype) == ((batch, tokens), torch.float32)


@pytest.mark.parametrize("rows", [4, 256])
@pytest.mark.parametrize("name", ["pagerank", "pagerank-causal", "text-attention"])
def test_padding_changes_no_score(name, rows, monkeypatch):
    """With blocks that are all padding, partly, and not at all."""
    monkeypatch.setattr(formulas, "IMPORTANCE_ROWS", rows)
    query, key = random_heads(batch=4, tokens=12)
    padding, visual = torch.tensor([0, 4, 6, 11]), torch.ones(4, 12, dtype=torch.bool)
    score = LAYER_IMPORTANCE[name]
    together = score(Attended(Choice(visual, 0, padding, 12, 6), query, key, 0.3))
    for row, left in enumerate(padding.tolist()):
        choice = Choice(visual[:1, left:], 0, None, 12 - left, 6)
        own = slice(row, row + 1)
        alone = Attended(choice, query[own, :, left:], key[own, :, left:], 0.3)
        torch.testing.assert_close(together[row, left:], score(alone)[0], rtol=1e-5, atol=1e-7)
        if name == "pagerank":
            assert not together[row, :left].any()


def ranked(name, visual, stay):
    query, key = random_heads(batch=len(visual), tokens=visual.shape[1])
    candidates = int(visual[0].sum())
    return LAYER_IMPORTANCE[name](
        Attended(Choice(visual, 5, None, candidates, stay), query, key, 0.3)
    )


@pytest.mark.parametrize(
    ("candidates", "stay"), [(12, 1), (12, 4), (12, 5), (12, 11), (1, 1), (7, 3)]
)
def test_uniform_survivors_are_evenly_spaced(candidates, stay):
    visual = torch.zeros(1, candidates + 5, dtype=torch.bool)
    visual[:, 3 : 3 + candidates] = True
    kept = select_tokens(visual, stay + 5, ranked("uniform", visual, stay))[0]
    places = kept[(kept >= 3) & (kept < 3 + candidates)]
    gaps = places.diff().tolist()
    assert len(places) == stay
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert set(gaps) <= {candidates // stay, -(-candidates // stay)}


def test_uniform_survivors_stand_in_the_middle_of_their_runs():
    visual = torch.ones(1, 12, dtype=torch.bool)
    assert ranked("uniform", visual, 4)[0].nonzero()[:, 0].tolist() == [1, 4, 7, 10]
    assert ranked("uniform", visual, 1)[0].nonzero()[:, 0].tolist() == [5]


def test_random_survivors_are_the_same_in_every_run_and_row():
    visual = torch.zeros(2, 30, dtype=torch.bool)
    visual[0, 2:22] = visual[1, 6:26] = True
    scores = ranked("random", visual, 5)
    assert torch.equal(scores, ranked("random", visual, 5))
    assert torch.equal(scores[0, 2:22], scores[1, 6:26])
    assert len(scores[0, 2:22].unique()) == 20


def test_every_score_that_runs_has_a_price():
    for name in LAYER_IMPORTANCE:
        assert Prune(linear=(1, 2), importance=name).importance == name


@pytest.mark.usefixtures("small_blocks")
def test_bfloat16_is_close():
    query, key = random_heads()
    low = query.bfloat16(), key.bfloat16()
    scores = pagerank_importance(*low, scaling=0.1)
    expected = full_importance(low[0].double(), low[1].double(), 0.1).float()
    torch.testing.assert_close(scores, expected, rtol=0.05, atol=1e-3)


def test_selection_protects_text_and_keeps_order():
    visual = torch.tensor([[False, True, True, True, False], [True, True, False, True, False]])
    scores = torch.tensor([[0.0, 0.1, 0.5, 0.3, 0.0], [0.2, 0.9, 0.0, 0.4, 0.0]])
    assert select_tokens(visual, 4, scores).tolist() == [[0, 2, 3, 4], [1, 2, 3, 4]]
    assert select_tokens(visual, 2).tolist() == [[0, 4], [2, 4]]


def test_ties_favour_the_earlier_token():
    visual = torch.tensor([[False] + [True] * 40 + [False]])
    scores = torch.zeros(1, 42)
    scores[0, 30] = 1.0
    assert select_tokens(visual, 6, scores).tolist() == [[0, 1, 2, 3, 30, 41]]


def test_selection_needs_no_values_on_the_host():
    visual = torch.zeros(2, 9, dtype=torch.bool, device="meta")
    index = select_tokens(visual, 4, torch.zeros(2, 9, device="meta"))
    assert take_tokens(torch.zeros(1, 9, 3, device="meta"), index).shape == (2, 4, 3)


def test_taking_tokens_broadcasts_the_batch():
    x = torch.arange(12.0).view(1, 4, 3)
    index = torch.tensor([[0, 2], [1, 3]])
    assert torch.equal(take_tokens(x, index), torch.stack([x[0, [0, 2]], x[0, [1, 3]]]))
    positions = torch.arange(4)[None]
    assert take_tokens(positions, index).tolist() == [[0, 2], [1, 3]]
