"""A patched model and torch.compile: right results whatever is compiled, or one clear error."""

import gc
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_runtime import PatchError, patch, patched, unpatch
from aim_runtime.patching.token_dropping import TokenDropping
from aim_runtime.seams import cache_of
from aim_runtime.trace import RunTrace
from tests.runtime.qwen import qwen_inputs, tiny_qwen
from tests.runtime.support import tiny_llava, tiny_qwen2, video_inputs

LAYERS = 2
LINEAR = Schedule(prune=Prune(linear=(0, 1)))
INSIDE = Schedule(prune=Prune(ratios=(0.5, 0.5), drop_point="after_attention"))
MERGED = Schedule(Merge(passes=(5, 3)), Prune(linear=(0, 1)))
MASK = torch.arange(20)[None].remainder(17) >= 3  # text, 14 visual tokens, text


@dataclass
class Graphs:
    """A backend that runs graphs as they are and notes the operations of those that ran."""

    ran: set[str] = field(default_factory=set)

    def __call__(self, graph: GraphModule, example_inputs: list[Tensor]) -> Callable[..., object]:
        names = {str(getattr(node.target, "__name__", node.target)) for node in graph.graph.nodes}

        def run(*args: object) -> object:
            self.ran |= names
            return graph.forward(*args)

        return run


@pytest.fixture(autouse=True)
def _compiles_afresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def in_place(model: nn.Module, backend: object = "eager") -> nn.Module:
    model.compile(backend=backend)
    return model


def by_forward(model: nn.Module, backend: object = "eager") -> nn.Module:
    model.forward = torch.compile(model.forward, backend=backend)
    return model


def wrapped(model: nn.Module, backend: object = "eager") -> nn.Module:
    return torch.compile(model, backend=backend)


def in_a_function(model: nn.Module, backend: object = "eager") -> Callable[..., object]:
    return torch.compile(lambda **inputs: model(**inputs), backend=backend)


def with_wrapped_decoder(model: nn.Module, backend: object = "eager") -> nn.Module:
    model.model = torch.compile(model.model, backend=backend)
    return model


WAYS = [in_place, by_forward, wrapped, in_a_function, with_wrapped_decoder]


def qwen2(**more: object) -> nn.Module:
    return tiny_qwen2(layers=LAYERS, **more)


def embedded() -> dict[str, Tensor]:
    return {"inputs_embeds": torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(2))}


def result(run: Callable[..., object], inputs: dict[str, Tensor], trace: RunTrace) -> list[object]:
    """Logits, cache lengths and the trace of a prefill."""
    output = run(**inputs)
    lengths = [layer.keys.shape[2] for layer in cache_of(output).layers]
    kept = [row.tolist() for row in trace.kept]
    return [output.logits.tolist(), lengths, kept, trace.tokens, trace.cache_tokens]


def uncompiled_results(schedules: list[Schedule]) -> list[list[object]]:
    results = []
    for schedule in schedules:
        model = qwen2()
        with patched(model, schedule, visual_mask=MASK) as trace:
            results.append(result(model, embedded(), trace))
    return results


@pytest.mark.parametrize("way", WAYS)
def test_compiled_then_patched_with_one_schedule_after_another(way):
    model, plain = qwen2(), qwen2()(**embedded()).logits
    compiled = way(model)
    schedules = [LINEAR, INSIDE]
    torch.testing.assert_close(compiled(**embedded()).logits, plain)
    for schedule, expected in zip(schedules, uncompiled_results(schedules), strict=True):
        trace = patch(model, schedule, visual_mask=MASK)
        assert result(compiled, embedded(), trace) == expected
        unpatch(model)
    torch.testing.assert_close(compiled(**embedded()).logits, plain)


def test_patched_then_compiled():
    model, plain = qwen2(), qwen2()(**embedded()).logits
    schedules = [LINEAR, INSIDE]
    expected = uncompiled_results(schedules)
    trace = patch(model, schedules[0], visual_mask=MASK)
    compiled = wrapped(model)
    assert result(compiled, embedded(), trace) == expected[0]
    unpatch(model)
    trace = patch(model, schedules[1], visual_mask=MASK)  # no run between
    assert result(compiled, embedded(), trace) == expected[1]
    unpatch(model)
    torch.testing.assert_close(compiled(**embedded()).logits, plain)


def test_more_patches_than_dynamo_compiles_a_function():
    model, limit = qwen2(), 2
    compiled = torch.compile(model, backend="eager")
    for turn in range(limit + 2):
        schedule = Schedule(prune=Prune(ratios=(1 - turn / 10,)))
        with (
            torch._dynamo.config.patch(recompile_limit=limit),
            patched(model, schedule, visual_mask=MASK) as trace,
        ):
            expected = result(model, embedded(), trace)
            assert result(compiled, embedded(), trace) == expected
    gc.collect()
    assert not [x for x in gc.get_objects() if type(x) is TokenDropping]


def test_llava_compiled_around_the_decoder():
    model, inputs = tiny_llava(layers=LAYERS), video_inputs(frames=1)
    few = {"max_new_tokens": 3, "do_sample": False}
    with patched(model, MERGED) as trace:
        expected = result(model, inputs, trace)
        generated = model.generate(**inputs, **few)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        with patched(compiled, MERGED) as trace:
            logits, *rest = result(compiled, inputs, trace)
            assert rest == expected[1:]
            # what compiles around the decoder rounds in another way
            torch.testing.assert_close(torch.tensor(logits), torch.tensor(expected[0]))
            assert torch.equal(compiled.generate(**inputs, **few), generated)
    assert trace.tokens.merge_tokens == (9, 5, 3)


def test_a_tower_that_merges_runs_as_written():
    model, inputs = tiny_llava(layers=LAYERS), video_inputs(frames=1)
    compiled = torch.compile(model, backend="eager")
    compiled(**inputs)  # what is compiled knows no hooks
    schedule = Schedule.parse("vision-merge 4")
    with patched(model, schedule) as trace:
        expected = result(model, inputs, trace)
        assert result(compiled, inputs, trace) == expected
    assert trace.tokens.tower_tokens == (25, 21, 17)
    model.model.vision_tower.compile(backend="eager")
    with pytest.raises(PatchError, match=r"^vision tower: .*Compile the whole model"):
        patch(model, schedule)
    with patched(model, MERGED):
        model(**inputs)


def test_generate_on_a_compiled_model():
    model, ids = qwen2(), torch.randint(0, 200, (1, 20))
    with patched(model, INSIDE, visual_mask=MASK):
        expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    compiled = in_place(model)
    with patched(compiled, INSIDE, visual_mask=MASK) as trace:
        assert torch.equal(compiled.generate(ids, max_new_tokens=4, do_sample=False), expected)
    assert trace.tokens.mlp_tokens[-1] < 20


def test_the_decoder_itself_is_not_compiled():
    model, graphs = qwen2(), Graphs()
    compiled = torch.compile(model, backend=graphs)
    with patched(model, LINEAR, visual_mask=MASK):
        compiled(**embedded())
    assert graphs.ran
    assert not {name for name in graphs.ran if "attention" in name}
    compiled(**embedded())
    assert {name for name in graphs.ran if "attention" in name}


@pytest.mark.parametrize("way", [in_place, wrapped])
def test_a_compiled_vision_tower_stays_compiled(way):
    model, inputs, graphs = tiny_llava(layers=LAYERS), video_inputs(frames=1), Graphs()
    with patched(model, MERGED) as trace:
        expected = result(model, inputs, trace)
    model.model.vision_tower = way(model.model.vision_tower, backend=graphs)
    model(**inputs)
    assert "conv2d" in graphs.ran
    graphs.ran.clear()
    with patched(model, MERGED) as trace:
        assert result(model, inputs, trace) == expected
    assert "conv2d" in graphs.ran


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler here")
def test_inductor_may_compile_the_vision_tower():
    model, inputs = tiny_llava(layers=LAYERS), video_inputs(frames=1)
    with patched(model, MERGED) as trace:
        logits, *expected = result(model, inputs, trace)
    model.model.vision_tower.compile()
    with patched(model, MERGED) as trace:
        got, *rest = result(model, inputs, trace)
    assert rest == expected
    torch.testing.assert_close(torch.tensor(got), torch.tensor(logits), rtol=1e-4, atol=1e-4)


def test_compiled_norms_stay_compiled():
    model, graphs = qwen2(), Graphs()
    with patched(model, INSIDE, visual_mask=MASK) as trace:
        expected = result(model, embedded(), trace)
    for layer in model.model.layers:
        layer.input_layernorm.compile(backend=graphs)
    with patched(model, INSIDE, visual_mask=MASK) as trace:
        assert result(model, embedded(), trace) == expected
    assert "rsqrt" in graphs.ran


HOOKED = {
    "decoder": lambda decoder: decoder,
    r"decoder.layers.0": lambda decoder: decoder.layers[0],
    r"decoder.layers.0.self_attn": lambda decoder: decoder.layers[0].self_attn,
    r"decoder.layers.0.self_attn.o_proj": lambda decoder: decoder.layers[0].self_attn.o_proj,
    r"decoder.layers.0.mlp": lambda decoder: decoder.layers[0].mlp,
}


@pytest.mark.parametrize("way", [in_place, by_forward])
@pytest.mark.parametrize("name", HOOKED)
def test_refuses_a_decoder_compiled_by_itself(way, name):
    model = qwen2()
    way(HOOKED[name](model.model))
    before = attributes(model)
    with pytest.raises(PatchError, match=f"^{name}: .*Compile the whole model or its vision tower"):
        patch(model, INSIDE, visual_mask=MASK)
    assert attributes(model) == before


@pytest.mark.parametrize("way", [in_place, by_forward])
@pytest.mark.parametrize("name", HOOKED)
def test_a_decoder_compiled_under_the_patch_is_refused_by_the_next_prefill(way, name):
    model = qwen2()
    with patched(model, LINEAR, visual_mask=MASK):
        model(**embedded())
        way(HOOKED[name](model.model))
        with pytest.raises(PatchError, match=f"^{name}: "):
            model(**embedded())


def test_refuses_wrapped_layers():
    model = qwen2()
    model.model.layers[0] = torch.compile(model.model.layers[0], backend="eager")
    with pytest.raises(PatchError, match=r"layers\.0: "):
        patch(model, LINEAR, visual_mask=MASK)


def test_a_layer_that_is_never_compiled_is_no_compiled_layer():
    model = qwen2()
    layer = model.model.layers[0]
    layer.forward = torch.compiler.disable(layer.forward)
    with patched(model, INSIDE, visual_mask=MASK) as trace:
        model(**embedded())
    assert trace.tokens.mlp_tokens[0] < 20


def test_one_graph_cannot_hold_a_patched_model():
    model = qwen2()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with (
        patched(model, LINEAR, visual_mask=MASK),
        pytest.raises(torch._dynamo.exc.Unsupported, match="compile without fullgraph=True"),
    ):
        compiled(**embedded())


def test_compiled_code_notices_a_new_forward():
    """What the patch relies on, in torch itself."""
    outer = nn.Sequential(nn.Linear(2, 2))
    x = torch.ones(1, 2)
    compiled = torch.compile(outer, backend="eager")
    expected = compiled(x)
    outer[0].forward = lambda x: x * 3
    assert torch.equal(compiled(x), x * 3)
    del outer[0].forward
    assert torch.equal(compiled(x), expected)


def attributes(model: nn.Module) -> list[object]:
    return [(name, sorted(vars(module))) for name, module in model.named_modules()]


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: tiny_llava(LAYERS), video_inputs()),
        (
            lambda: tiny_qwen("qwen2.5-vl", layers=LAYERS, full=(0, 2)),
            qwen_inputs("qwen2.5-vl", [4, (3, 6, 8), 5]),
        ),
    ],
    ids=["siglip", "qwen"],
)
def test_the_tower_of_a_compiled_model_is_read(make, inputs):
    model, schedule = make(), Schedule.parse("select 0.4 score=vision-attention")
    with patched(model, schedule):
        expected = model(**inputs).logits
    model.compile(backend="eager")
    model(**inputs)  # compiled without the patch
    with patched(model, schedule):
        torch.testing.assert_close(model(**inputs).logits, expected)
