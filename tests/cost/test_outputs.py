"""What a command writes, and what it says where it cannot."""

from dataclasses import replace

import numpy as np
import pytest

from aim_cost import Case, Workload
from aim_cost.cli.main import app
from aim_cost.errors import AimError, OutputError, ProfileError, SpecError
from aim_cost.files import make_folder, write_atomically
from aim_cost.ops.op import Op, OpGraph
from aim_cost.studies.lmms_results import lmms_scores
from aim_cost.timing import load_calibration


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    taken = tmp_path / "file"
    write_atomically(taken, b"x")
    with pytest.raises(OutputError, match="place to write"):
        write_atomically(taken / "below.json", b"x")
    with pytest.raises(OutputError, match="place to write"):
        make_folder(taken)
    with pytest.raises(OutputError, match="place to write"):
        app(["sweep", "--out", str(taken / "rows.csv")])


def test_an_error_is_one_line_that_a_terminal_can_show():
    error = AimError("a\nkey", expected="x\x1b[31m", got="\r\n", fix="y" * 9)
    assert str(error) == "a key: expected x\\x1b[31m, got   . yyyyyyyyy"


def test_sums_count_an_op_as_often_as_it_runs():
    graph = OpGraph((Op("a", "merge", 2, 3, 4, None), Op("b", "merge", 5, 6, 7, None, times=3)))
    assert (graph.flops, graph.read_bytes, graph.write_bytes) == (17, 21, 25)
    assert [op.name for op in graph] == ["a", "b", "b", "b"]


def test_subtasks_that_are_no_list_are_refused():
    tree = {
        "results": {"mme": {"acc,none": 0.5}},
        "group_subtasks": {"mme": -1},
        "config": {"model_args": "pretrained=a/b"},
    }
    with pytest.raises(SpecError, match=r"group_subtasks\.mme"):
        lmms_scores(tree, "results.json")


@pytest.mark.parametrize("part", ["where", "expected", "got", "fix"])
def test_an_error_that_quotes_a_long_name_stays_short(part):
    parts = {"expected": "e", "got": "g", "fix": "f", "where": "w"} | {part: "x" * 9999}
    text = str(AimError(parts.pop("where"), **parts))
    assert len(text) < 1000 and "(9999 characters)" in text


@pytest.mark.parametrize(
    ("shift", "surface"),
    [(1e308, 0), (0, 700)],  # infinite; a number whose sum over kernels is infinite
)
def test_a_calibration_that_gives_no_finite_time_is_refused(shift, surface):
    fitted = load_calibration("h100-sxm")
    gemm = fitted.kernels["gemm"]
    values = gemm.model.surface.values + surface
    model = replace(
        gemm.model,
        parameters=gemm.model.parameters + shift,
        surface=replace(gemm.model.surface, values=values),
    )
    wrong = replace(fitted, kernels={**fitted.kernels, "gemm": replace(gemm, model=model)})
    case = Case("llava-onevision-qwen2-0.5b", Workload(9, frames=2), "h100-sxm", calibration=wrong)
    with np.errstate(all="ignore"), pytest.raises(ProfileError, match="finite time"):
        case.price().ttft  # noqa: B018
