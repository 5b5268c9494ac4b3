"""Scores of one's own: registered in a user's file, run, counted and priced as they run."""

from dataclasses import replace

import pytest
import torch

from aim_cost import Schedule, Workload, estimate, load_hardware
from aim_cost.errors import ScheduleError
from aim_cost.methods import parse_methods
from aim_cost.ops.kind import BatchedProduct, Elementwise
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_runtime import PatchError, own_score, own_selection, patched
from aim_runtime.reduction.scores import LAYER_IMPORTANCE
from aim_runtime.selection import SELECTIONS
from aim_runtime.validation.counts import check_counts
from tests.contract.test_flops_families import loaded
from tests.runtime.models import named_inputs, prompt_of, tiny_llava_15

H100 = load_hardware("h100-sxm")
FILE = """
from aim_cost import Schedule
from aim_cost.methods.method import Setting, method
from aim_runtime import own_selection


@own_selection("largest-norm", "the length of a token's features", across_sizes=True)
def choose(of):
    return of.best(of.features.float().norm(dim=-1))


@method("largest-norm", "Largest norm", None, "before")
def largest_norm(of: Setting) -> Schedule:
    return Schedule.parse("select 0.5 score=largest-norm")
"""


@pytest.fixture(autouse=True)
def registered_here_alone():
    registries = (VISUAL_SCORES, LAYER_SCORES, SELECTIONS, LAYER_IMPORTANCE)
    before = [dict(registry) for registry in registries]
    yield
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


def rows(family, workload, *schedules):
    return list(check_counts(loaded(family), workload, [*map(Schedule.parse, schedules)], H100))


def test_a_file_is_a_method_that_keeps_what_it_says(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    (request,) = parse_methods(str(path))
    assert request.method.runs and request.method.name == "largest-norm"
    model = tiny_llava_15()
    inputs = named_inputs(model, "llava-1.5", "an image")
    (features,) = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    schedule = request.method.schedule(loaded("llava-1.5").spec, Workload(9, image_tokens=9))
    with patched(model, schedule) as trace:
        model(**inputs)
    kept = features.norm(dim=-1).topk(4).indices.sort().values
    first = int((inputs["input_ids"][0] == model.config.image_token_id).int().argmax())
    assert trace.tokens.selected_tokens == 4
    with patched(model, schedule), torch.no_grad():
        seen = []
        hook = model.model.language_model.layers[0].register_forward_pre_hook(
            lambda module, args: seen.append(args[0])
        )
        model(**inputs)
        hook.remove()
    assert torch.equal(seen[0][0, first : first + 4], features[kept])


def test_a_selection_is_priced_as_it_runs():
    @own_selection("odd-one-out", "how little the others are like it", reads_tower=True)
    def choose(of):
        x = torch.nn.functional.normalize(of.in_frames(of.features), dim=-1)
        likeness = (x @ x.transpose(-1, -2)).mean(dim=-1)
        return of.best(of.tower.received().view(likeness.shape[0], -1) - likeness.flatten(1))

    for family, pixels in (
        ("llava-1.5", {"image_tokens": 18, "batch": 2}),
        ("llava-next-video", {"frames": 3, "batch": 2}),
        ("llava-onevision", {"frames": 3}),
    ):
        workload = Workload(9, **pixels)
        for row in rows(
            family, workload, "select 0.4 score=odd-one-out", "select frame:2 score=odd-one-out"
        ):
            assert row.traces_equal and row.flops_equal, row.differences
            assert row.counted["merge"] > 0
    spec = loaded("llava-onevision").spec
    priced = estimate(spec, Workload(9, frames=3), "select 0.4 score=odd-one-out", H100)
    kinds = [op.kind for op in priced.graph.phase("merge")]
    assert any(isinstance(kind, BatchedProduct) for kind in kinds) and Elementwise.COPY in kinds


def test_a_selection_that_keeps_another_number_is_refused():
    @own_selection("one-more", "all that is asked for, and one")
    def choose(of):
        return replace(of, keep=of.keep + 1).best(of.features.norm(dim=-1))

    model = tiny_llava_15()
    with (
        patched(model, "select prompt:4 score=one-more"),
        pytest.raises(PatchError, match=r"one-more: expected 4 tokens.*got 5 tokens and 5 places"),
    ):
        model(**prompt_of(model, (4, "image", 5)))


def test_a_score_inside_the_llm_is_priced_as_it_runs():
    @own_score("first-row", "attention of the first token")
    def rank(at):
        groups = at.query.shape[1] // at.key.shape[1]
        key = at.key.repeat_interleave(groups, dim=1)
        return (at.query[:, :, :1] @ key.transpose(-1, -2)).mean(dim=(1, 2))

    workload = Workload(9, image_tokens=18, batch=2)
    for row in rows("llava-1.5", workload, "prune ratios:0.5,0.3 score=first-row"):
        assert row.traces_equal and row.flops_equal, row.differences
        assert row.counted["importance"] > 0


def test_code_that_waits_for_values_is_refused():
    @own_selection("by-hand", "what the host decides")
    def choose(of):
        return of.best(of.features[..., 0] * float(of.features.max()))

    with pytest.raises(PatchError, match="by-hand: expected code whose shapes follow"):
        rows("llava-1.5", Workload(9, image_tokens=9), "select 0.5 score=by-hand")


def test_names():
    for name, match in (("uniform", "not taken"), ("Mine", "small letters"), ("a--b", "small")):
        with pytest.raises(ScheduleError, match=match):
            own_selection(name, "x")
    with pytest.raises(ScheduleError, match="not taken"):
        own_score("pagerank", "x")
    for _ in range(2):  # a cell of a notebook that runs again
        own_selection("again", "x")(lambda of: of.best(of.features[..., 0]))
    assert Schedule.parse("select 0.5 score=again").select.by == "again"
    with pytest.raises(ScheduleError, match="score="):
        Schedule.parse("select 0.5 score=again-and-again")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "a Python file"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "one function under @method, got none"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_files_that_are_no_method(tmp_path, text, match):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ScheduleError, match=match):
        parse_methods(str(path))
