"""A loop of small kernels costs its launches, in whatever way they are started, and its bytes."""

from dataclasses import replace

import pytest

from aim_cost import load_hardware
from aim_cost.devices.roofline import Roofline
from aim_cost.ops.kind import Elementwise, Steps
from aim_cost.ops.op import Op
from aim_cost.timing import OpTimeModel, load_calibration

CALIBRATION = load_calibration("h100-sxm")
LOOP = Op("greedy", "merge", 0, 10**9, 10**8, Steps(1568, 4))
ONE = replace(LOOP, kind=Elementwise.COPY)
OTHERS = 1568 * 4 - 1
"""Starts of the loop beyond the one that a copy of as many bytes has."""


def prices(execution: str) -> OpTimeModel:
    return OpTimeModel.from_calibration(CALIBRATION, execution=execution)


def start_s(kind: Elementwise) -> float:
    """Seconds in which a kernel of no bytes runs on the device, in a CUDA graph."""
    found = CALIBRATION.elementwise[kind].start_s
    return CALIBRATION.dispatch.graph_launch_s.value if found is None else found


@pytest.mark.parametrize(
    ("execution", "kind"), [("cuda-graph", Elementwise.COPY), ("fused", Elementwise.ADD)]
)
def test_each_kernel_of_a_loop_is_started_by_the_device(execution, kind):
    made = prices(execution)
    gap_s = made.time(LOOP).time_s - made.time(ONE).time_s
    assert gap_s == pytest.approx(OTHERS * start_s(kind), rel=1e-9)
    assert made.host_s([LOOP]).tolist() == [0]
    assert gap_s > 1568 * 4e-6  # not lost in the bytes, which take less than a millisecond


def test_each_kernel_of_an_eager_loop_is_launched_by_the_host():
    made, dispatch = prices("eager"), CALIBRATION.dispatch
    launch_s = dispatch.launch_s.value - dispatch.graph_launch_s.value
    gap_s = made.time(LOOP).time_s - made.time(ONE).time_s
    assert gap_s == pytest.approx(OTHERS * (start_s(Elementwise.COPY) + launch_s), rel=1e-9)
    assert made.kernels(LOOP) == 1568 * 4
    assert made.host_s([LOOP])[0] == pytest.approx(6272 * dispatch.host_s_per_kernel.value)


def test_loops_are_priced_together_as_alone():
    made = prices("eager")
    ops = [LOOP, replace(LOOP, kind=Steps(3, 5)), ONE]
    assert made.times(ops).time_s.tolist() == [made.time(op).time_s for op in ops]


def test_a_roofline_prices_the_bytes_of_a_loop_alone():
    roofline = Roofline.of(load_hardware("h100-sxm"), "bfloat16")
    assert roofline.op_time_s(LOOP) == LOOP.bytes / roofline.bytes_per_s == roofline.op_time_s(ONE)
