"""Each op is priced by its kind and by nothing else: not by its name, its phase, or its FLOPs."""

from dataclasses import replace

import pytest

from aim_cost import Case, Execution, Schedule, Workload
from aim_cost.errors import SpecError
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import (
    BatchedProduct,
    CausalAttention,
    Elementwise,
    EncoderAttention,
    FusedImportance,
    Importance,
    Kind,
    Product,
    RowAttention,
    Steps,
)
from aim_cost.ops.op import OpGraph
from aim_cost.timing import OpTimeModel, load_calibration
from aim_cost.timing.elementwise import measured_as

CALIBRATION = load_calibration("h100-sxm")
PRICES = OpTimeModel.from_calibration(CALIBRATION)
VIDEO, IMAGES = Workload(20, frames=2), Workload(20, images=((600, 900), (300, 300)))
LAYERS, EAGER = Execution(last_layer="needed"), Execution(attention="eager")
CASES = {
    "video": ("llava-onevision-qwen2-0.5b", VIDEO, "merge 0.25, prune linear:1:3", LAYERS),
    "eager": ("llava-next-video-7b", VIDEO, "prune linear:1:3 score=eager-attention", EAGER),
    "fused": ("llava-1.5-7b", IMAGES, "prune linear:1:3", Execution(scoring="fused")),
    "tower": ("llava-onevision-qwen2-0.5b", IMAGES, "vision-merge 16", EAGER),
    "qwen2": ("qwen2-vl-7b", VIDEO, "select 0.5 score=determinantal", LAYERS),
    "qwen2.5": ("qwen2.5-vl-7b", IMAGES, "prune linear:1:3 score=text-attention", LAYERS),
}


def graph_of(name: str) -> OpGraph:
    model, workload, schedule, execution = CASES[name]
    return Case(model, workload, "h100-sxm", execution).price(Schedule.parse(schedule)).graph


GRAPHS = {name: graph_of(name) for name in CASES}
OPS = [op for graph in GRAPHS.values() for op in graph]


def slowed(kind: Elementwise) -> OpTimeModel:
    """Prices of a device whose kernels of one kind take three times as many bytes."""
    known = CALIBRATION.elementwise
    figures = known.get(kind, known[kind.general])
    changed = {**known, kind: replace(figures, traffic=3 * figures.traffic)}
    return OpTimeModel.from_calibration(replace(CALIBRATION, elementwise=changed))


def test_the_graphs_hold_ops_of_every_kind():
    general = {Elementwise.ACTIVATION, Elementwise.REDUCTION, Elementwise.IMPORTANCE}
    found = {op.kind for op in OPS if isinstance(op.kind, Elementwise)}
    assert found >= set(Elementwise) - general
    assert {type(op.kind) for op in OPS} == {
        *(Elementwise, Product, BatchedProduct, CausalAttention, EncoderAttention, RowAttention),
        *(Importance, Steps, FusedImportance),
    }


@pytest.mark.parametrize("kind", Elementwise)
def test_the_figures_of_a_kind_change_the_times_of_its_ops_and_of_no_others(kind):
    before, after = PRICES.times(OPS).time_s, slowed(kind).times(OPS).time_s
    for op, was_s, is_s in zip(OPS, before, after, strict=True):
        mine = isinstance(op.kind, Elementwise | Importance | Steps) and kind in (
            measured_as(op.kind),
            measured_as(op.kind).general,
        )
        row = isinstance(op.kind, RowAttention) and kind is Elementwise.COPY
        assert (is_s > was_s) == (mine or row), op
        assert is_s >= was_s


@pytest.mark.parametrize("name", CASES)
def test_another_kind_is_another_time_and_another_name_is_not(name):
    ops = GRAPHS[name].ops
    was = PRICES.times(ops).time_s
    renamed = [replace(op, name="gate_mul_3", phase="merge") for op in ops]
    assert PRICES.times(renamed).time_s.tolist() == was.tolist()
    for kind, other in OTHERS.items():
        broken = [replace(op, kind=other) if op.kind is kind else op for op in ops]
        changed = PRICES.times(broken).time_s != was
        assert changed.tolist() == [op.kind is kind for op in ops], kind


OTHERS = {
    Elementwise.RMS_NORM: Elementwise.LAYER_NORM,
    Elementwise.LAYER_NORM: Elementwise.RMS_NORM,
    Elementwise.ROTARY: Elementwise.COPY,
    Elementwise.SILU: Elementwise.GATHER,
    Elementwise.ADD: Elementwise.COPY,
    Elementwise.TOWER_ADD: Elementwise.GELU,
    Elementwise.SOFTMAX: Elementwise.REDUCTION,
}


def test_attention_has_the_kind_of_its_model_part():
    for graph in GRAPHS.values():
        for op in graph:
            if isinstance(op.kind, EncoderAttention):
                assert op.phase == "vision.tower"
            elif isinstance(op.kind, CausalAttention | RowAttention):
                assert op.phase == "llm.layers"


@pytest.mark.parametrize("kind", [None, "copy", "q_proj"])
def test_an_op_without_a_kind_has_no_price(kind):
    op = replace(Kernels("llm.layers", 2).linear("q_proj", 8, 8, 8), kind=kind)
    for price in (PRICES.time, lambda op: PRICES.times([op]), PRICES.kernels):
        with pytest.raises(SpecError, match="q_proj"):
            price(op)


def test_conventions_that_count_alone_have_a_roofline_and_no_kinds():
    case = Case("llava-onevision-qwen2-0.5b", VIDEO, "h100-sxm")
    for convention in ("llm-viewer", "fastv"):
        result = case.price(convention=convention)
        assert result.ttft_s > 0
        with pytest.raises(SpecError, match="kind"):
            PRICES.times(result.graph.ops)


def test_every_kind_of_the_graphs_can_be_resized():
    for op in OPS:
        assert isinstance(op.kind, Kind)
        twice = tuple(2 * size for size in op.kind.sizes)
        assert op.kind.resized(twice).sizes == twice
        assert type(op.kind.resized(twice)) is type(op.kind)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("llava-onevision-qwen2-0.5b", Elementwise.TOWER_ADD),
        ("llava-1.5-7b", Elementwise.ADD),
        ("qwen2.5-vl-7b", Elementwise.ADD),
    ],
)
def test_hidden_states_of_siglip_alone_lie_channel_by_channel(model, kind):
    graph = Case(model, IMAGES, "h100-sxm").price().graph.phase("vision.tower")
    assert {op.kind for op in graph if op.name.endswith("_add")} == {kind}
