"""The static prefill equals the patched model, asks the host nothing, and refuses the rest."""

import contextlib
import copy
from dataclasses import replace

import pytest
import torch

from aim_cost import ModelSpec, Schedule, Workload
from aim_cost.models.workload import LastLayer
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_runtime import PatchError, load, patched
from aim_runtime.models.load import Loaded
from aim_runtime.patching import cuda_graph as graph
from aim_runtime.patching.capturable import capturable
from aim_runtime.patching.cuda_graph import GraphedPrefill, StaticPrefill
from aim_runtime.prompts.inputs import sized_inputs
from aim_runtime.reduction.scores import LAYER_IMPORTANCE
from aim_runtime.seams import cache_of, with_cache
from aim_runtime.selection import SELECTIONS
from tests.runtime.support import tiny_llava, video_inputs

CAPTURABLE = [
    name for name in SELECTIONS if name != "random" and not VISUAL_SCORES[name].reads_text
]
SCHEDULES = [
    "none",
    "merge passes:5,3",
    "prune linear:1:4",
    "merge passes:5,3, prune linear:1:4",
    "sample 2, merge passes:5, prune linear:1:4",
    "merge passes:5 by=uniform, prune ratios:1,0.5,0.5,0.2,0.2,0.1 drop=after-attention",
    *(f"prune linear:0:3 score={name}" for name in LAYER_IMPORTANCE if name != "random"),
    *(f"select frame:4 score={name}" for name in CAPTURABLE),
]
BOTH = Schedule.parse("merge passes:5,3, prune linear:1:4")
BOTH_META = Schedule.parse("merge 0.25, prune linear:1:4 drop=after-attention")
TOWER = Schedule.parse("vision-merge 4, merge passes:5,3")


def loaded_of(model) -> Loaded:
    spec = ModelSpec.from_hf_config(model.config.to_dict(), name="tiny")
    return Loaded(model, spec, model.config, torch.device("cpu"), "float32", None)


@pytest.fixture(scope="module")
def loaded():
    return loaded_of(tiny_llava())


def run_patched(loaded, schedule, inputs, last_layer="all"):
    with patched(loaded.model, schedule, last_layer=last_layer) as trace:
        output = loaded.model(**inputs, use_cache=True, logits_to_keep=1)
    return output, trace


def assert_equal(output, trace, expected):
    wanted, wanted_trace = expected
    assert torch.equal(output.logits, wanted.logits)
    layers = zip(cache_of(output).layers, cache_of(wanted).layers, strict=True)
    for mine, theirs in layers:
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)
    assert trace.tokens == wanted_trace.tokens
    assert trace.cache_tokens == wanted_trace.cache_tokens
    kept = zip(trace.kept, wanted_trace.kept, strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in kept)


@pytest.mark.parametrize("last_layer", list(LastLayer))
@pytest.mark.parametrize("label", SCHEDULES)
def test_equals_the_patched_model_bit_for_bit(loaded, label, last_layer):
    schedule, inputs = Schedule.parse(label), video_inputs(batch=2)
    static = StaticPrefill(loaded, schedule, inputs, last_layer=last_layer)
    output = static.run()
    assert_equal(output, static.trace, run_patched(loaded, schedule, inputs, last_layer))


def test_merging_in_the_tower_is_static_too(loaded, meta):
    inputs = video_inputs(batch=2)
    static = StaticPrefill(loaded, TOWER, inputs)
    assert_equal(static.run(), static.trace, run_patched(loaded, TOWER, inputs))
    assert static.trace.tokens.tower_tokens == (25, 21, 17)
    _, trace = run_watched(meta[0], Schedule.parse("vision-merge 16"), meta[1])
    assert trace.tokens.tower_tokens == tuple(range(729, 632, -16))


def test_rows_and_videos_stand_where_the_first_prompts_have_them(loaded):
    first, second = video_inputs(frames=2, before=3, after=9), video_inputs(frames=2, seed=2)
    both = {name: torch.cat([first[name], second[name]]) for name in first}
    static = StaticPrefill(loaded, BOTH, both)
    assert_equal(static.run(), static.trace, run_patched(loaded, BOTH, both))
    two = {
        "input_ids": torch.cat([first["input_ids"], second["input_ids"]], dim=1),
        "pixel_values_videos": both["pixel_values_videos"],
    }
    static = StaticPrefill(loaded, BOTH, two)
    assert_equal(static.run(), static.trace, run_patched(loaded, BOTH, two))


def test_other_inputs_of_the_same_shape(loaded):
    first, second = video_inputs(seed=1), video_inputs(seed=2)
    static = StaticPrefill(loaded, BOTH, first)
    before = static.run()
    static.load(second)
    assert_equal(static.run(), static.trace, run_patched(loaded, BOTH, second))
    assert_equal(before, static.trace, (run_patched(loaded, BOTH, first)[0], static.trace))


def test_decoding_goes_on_from_the_cache(loaded):
    inputs = video_inputs()
    with patched(loaded.model, BOTH):
        new = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    expected = new[0, inputs["input_ids"].shape[1] :].tolist()
    output = StaticPrefill(loaded, BOTH, inputs).run()
    token, tokens = output.logits[:, -1].argmax(-1, keepdim=True), []
    for _ in expected:
        tokens.append(token.item())
        step = loaded.model(input_ids=token, **with_cache(cache_of(output)))
        token = step.logits[:, -1].argmax(-1, keepdim=True)
    assert tokens == expected


def test_generate_goes_on_from_the_cache_inside_a_block(loaded):
    inputs, more = video_inputs(), torch.tensor([[11, 12, 13]])
    ids = torch.cat([inputs["input_ids"], more], dim=1)
    greedy = {"max_new_tokens": 4, "do_sample": False}
    with patched(loaded.model, BOTH):
        own = cache_of(loaded.model(**inputs, use_cache=True))
        expected = loaded.model.generate(ids, **with_cache(own), **greedy)
    cache = cache_of(StaticPrefill(loaded, BOTH, inputs).run())
    with patched(loaded.model, BOTH):
        found = loaded.model.generate(ids, **with_cache(copy.deepcopy(cache)), **greedy)
    assert torch.equal(found, expected)
    with patched(loaded.model, Schedule(prune=BOTH.prune)):
        found = loaded.model.generate(ids, **with_cache(cache), **greedy)
    assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def meta():
    """Real dims without data, and inputs for them: ids on the host, pixels nowhere."""
    loaded = load("llava-onevision-qwen2-0.5b", device="meta", random_weights=True, layers=6)
    inputs = sized_inputs(
        replace(loaded, device=torch.device("cpu")), Workload(text_tokens=20, frames=2)
    )
    return loaded, inputs | {"pixel_values_videos": inputs["pixel_values_videos"].to("meta")}


def run_watched(loaded, schedule, inputs, last_layer="all"):
    static = StaticPrefill(loaded, schedule, inputs, last_layer=last_layer)
    with torch.no_grad(), static.attached():
        work = static.prepare()
        with capturable():
            return work(), static.trace


@pytest.mark.parametrize(
    "label",
    [
        "none",
        "merge 0.25, prune linear:1:4",
        "merge 0.25 by=uniform, prune linear:1:4 drop=after-attention",
        *(f"prune linear:1:4 score={name}" for name in LAYER_IMPORTANCE if name != "random"),
        *(f"select frame:49 score={name}" for name in CAPTURABLE),
    ],
)
def test_nothing_depends_on_data_or_reads_the_host(meta, label):
    loaded, inputs = meta
    output, trace = run_watched(loaded, Schedule.parse(label), inputs)
    assert output.logits.shape == (1, 1, loaded.config.text_config.vocab_size)
    plan = Schedule.parse(label).resolve(loaded.spec, Workload(text_tokens=20, frames=2))
    assert trace.tokens.attention_tokens == plan.attention_tokens[:6] == trace.cache_tokens


def test_neither_does_a_last_layer_of_one_token(meta):
    loaded, inputs = meta
    output, trace = run_watched(loaded, BOTH_META, inputs, "needed")
    assert output.logits.shape == (1, 1, loaded.config.text_config.vocab_size)
    assert trace.tokens.last_queries == trace.tokens.mlp_tokens[-1] == 1


@pytest.mark.parametrize(
    "label", ["merge 0.5 by=random", "select 0.5 score=random", "prune linear:1:4 score=random"]
)
def test_what_reads_the_host_is_refused(meta, label):
    loaded, inputs = meta
    with pytest.raises(PatchError, match=r"no tensor of the host.*with patched"):
        run_watched(loaded, Schedule.parse(label), inputs)


def test_the_stock_forward_is_refused(meta):
    loaded, inputs = meta
    device = {name: x.to("meta") for name, x in inputs.items()}
    with pytest.raises(PatchError, match="graph"), capturable():
        loaded.model(**device)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.ops.aten.lift_fresh(x),  # how torch.tensor(data, device="cuda") ends
    ],
)
def test_the_watch_sees_what_a_graph_cannot_hold(work):
    x = torch.zeros(3, device="meta")
    with pytest.raises(PatchError, match="CUDA graph"), capturable():
        work(x)


def test_the_watch_lets_static_work_pass():
    x, place = torch.zeros(3, device="meta"), torch.zeros(2, dtype=torch.long, device="meta")
    with capturable():
        assert (x[place] * 2.0 + 1).sort().values.masked_fill(x[:2] > 0, 0).shape == (2,)
        assert int(torch.ones(3).sum()) == 3  # the host may count what is its own


def changed(**changes):
    inputs = video_inputs()
    return {name: change(inputs[name]) for name, change in changes.items()} | {
        name: x for name, x in inputs.items() if name not in changes
    }


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (video_inputs(after=8), "input_ids"),
        (video_inputs(frames=5), "pixel_values_videos"),
        (video_inputs(batch=2), "pixel_values_videos"),
        (video_inputs(before=6, after=6), "elsewhere"),
        (changed(attention_mask=lambda x: x.index_fill(1, torch.tensor(0), 0)), "padding"),
        (changed(pixel_values_videos=lambda x: None), "no images"),
    ],
)
def test_other_shapes_are_refused(loaded, inputs, expected):
    static = StaticPrefill(loaded, BOTH, video_inputs())
    with pytest.raises(PatchError, match=expected):
        static.load(inputs)


def test_models_and_schedules_that_do_not_fit_are_refused(loaded):
    with pytest.raises(PatchError, match="recounted"):
        StaticPrefill(loaded, Schedule.parse("merge passes:5 positions=kept"), video_inputs())
    for part in (loaded.model.model.language_model, loaded.model.model.vision_tower):
        part.set_attn_implementation("eager")
        with pytest.raises(PatchError, match="sdpa"):
            StaticPrefill(loaded, BOTH, video_inputs())
        part.set_attn_implementation("sdpa")
    with pytest.raises(PatchError, match="with patched"):
        GraphedPrefill(loaded, BOTH, video_inputs())


class _FakeGraph:
    """Counts replays: what was captured stays as it is."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def fake_cuda(monkeypatch):
    """torch.cuda's streams and graphs, without a device."""

    class Stream:
        def wait_stream(self, other):
            pass

    captures = []

    @contextlib.contextmanager
    def capture(captured):
        captures.append(captured)
        yield

    nothing = lambda *_: contextlib.nullcontext()  # noqa: E731
    for name, value in {
        "CUDAGraph": _FakeGraph,
        "graph": capture,
        "Stream": lambda device: Stream(),
        "current_stream": lambda device: Stream(),
        "stream": nothing,
        "device": nothing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return captures


def test_capture_runs_once_after_the_warm_up(loaded, fake_cuda, monkeypatch):
    runs = []
    forward = StaticPrefill._forward
    monkeypatch.setattr(
        StaticPrefill, "_forward", lambda self, *args: runs.append(1) or forward(self, *args)
    )
    watched = []
    monkeypatch.setattr(
        graph, "capturable", lambda: contextlib.nullcontext(watched.append(len(runs)))
    )
    monkeypatch.setattr(graph, "_is_cuda", lambda device: True)
    inputs = video_inputs()
    graphed = GraphedPrefill(loaded, BOTH, inputs, warmup=2)
    assert (watched, len(runs), len(fake_cuda)) == ([0], 3, 1)
    first, second = graphed(inputs), graphed.replay()
    assert (len(runs), fake_cuda[0].replays) == (3, 2)
    expected = run_patched(loaded, BOTH, inputs)
    assert_equal(first, graphed.trace, expected)
    # decoding on one cache leaves the next one alone
    loaded.model(input_ids=torch.tensor([[3]]), **with_cache(cache_of(first)))
    assert_equal(second, graphed.trace, expected)
    assert_equal(graphed.replay(), graphed.trace, expected)
    with pytest.raises(PatchError, match="as captured"):
        graphed(video_inputs(after=8))


def test_a_failed_capture_says_why_and_restores_the_model(loaded, fake_cuda, monkeypatch):
    @contextlib.contextmanager
    def fails(captured):
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    monkeypatch.setattr(graph, "_is_cuda", lambda device: True)
    with pytest.raises(PatchError, match="not permitted"):
        GraphedPrefill(loaded, BOTH, video_inputs())
    with patched(loaded.model, BOTH):
        pass
    hooks = [m._forward_pre_hooks for m in loaded.model.modules()]
    assert not any(hooks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("label", SCHEDULES)
def test_replays_equal_the_patched_model_on_a_gpu(label):
    loaded = loaded_of(tiny_llava().cuda())
    loaded = replace(loaded, device=torch.device("cuda"))
    schedule = Schedule.parse(label)
    first, second = ({k: x.cuda() for k, x in video_inputs(seed=s).items()} for s in (1, 2))
    graphed = GraphedPrefill(loaded, schedule, first)
    for inputs in (first, second, first):
        output = graphed(inputs)
        expected, trace = run_patched(loaded, schedule, inputs)
        torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
        assert graphed.trace.tokens == trace.tokens
        assert all(torch.equal(*pair) for pair in zip(graphed.trace.kept, trace.kept, strict=True))
