"""Sweeps on disk and on the command line."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from aim_cost import Execution, load_hardware, load_model_spec
from aim_cost.cli.sweep import whole_numbers
from aim_cost.errors import SpecError
from aim_cost.imports import MissingLibraryError
from aim_cost.sweeps import Grid, all_rows, store
from aim_cost.sweeps.store import write_sweep

SMALL = load_model_spec("llava-onevision-qwen2-0.5b")
COMMAND = [sys.executable, "-m", "aim_cost.cli", "sweep"]


def grid(**axes):
    """Two chunks: one a device."""
    usual = {
        "models": (SMALL,),
        "hardware": (load_hardware("h100-sxm"), load_hardware("l40s")),
        "executions": (Execution(),),
        "frames": (4, 8),
        "text_tokens": (100,),
        "retentions": (0.3,),
        "prunes": (None, (14, 22)),
    }
    return Grid(**usual | axes)


def run(*arguments, status=0):
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    return result


def test_a_csv_holds_every_digit(tmp_path):
    path = tmp_path / "sweep.csv"
    assert list(write_sweep(grid(), path)) == [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.csv"]
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    expected = all_rows(grid())
    assert list(found[0]) == list(expected) and len(found) == len(expected)
    for name in expected.columns[6:].drop("source"):  # after the names
        values = [None if pd.isna(value) else value for value in expected[name]]
        assert [float(row[name]) if row[name] else None for row in found] == values


def test_parquet_keeps_the_types(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "sweep.parquet"
    list(write_sweep(grid(), path))
    pd.testing.assert_frame_equal(
        pd.read_parquet(path), all_rows(grid()), check_categorical=False, check_exact=True
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path, monkeypatch, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path, whole = tmp_path / f"part{suffix}", tmp_path / f"whole{suffix}"
    writing = write_sweep(grid(), path)
    next(writing)
    writing.close()
    assert not path.exists()
    computed = []

    def counted(grid, index):
        computed.append(index)
        return chunk(grid, index)

    chunk = store.chunk
    monkeypatch.setattr(store, "chunk", counted)
    assert list(write_sweep(grid(), path)) == [1, 2]  # the one kept is told before any new one
    assert computed == [0, 1]  # the mark of the sweep, then the second chunk
    list(write_sweep(grid(), whole))
    assert path.read_bytes() == whole.read_bytes()


def test_the_parts_of_another_sweep_are_neither_used_nor_lost(tmp_path):
    path = tmp_path / "sweep.csv"
    next(write_sweep(grid(), path))
    kept = sorted(p.name for p in path.with_name("sweep.csv.parts").iterdir())
    with pytest.raises(SpecError, match="finished parts of this sweep"):
        list(write_sweep(grid(frames=(4, 8, 16)), path))
    assert sorted(p.name for p in path.with_name("sweep.csv.parts").iterdir()) == kept


def test_other_suffixes_and_a_missing_pyarrow_are_refused(tmp_path, monkeypatch):
    with pytest.raises(SpecError, match=r"\.csv, \.parquet"):
        next(write_sweep(grid(), tmp_path / "sweep.xlsx"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingLibraryError, match=r"aim-efficiency\[parquet\]', or write a \.csv"):
        next(write_sweep(grid(), tmp_path / "sweep.parquet"))
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    out = tmp_path / "sweep.csv"
    axes = ["--frames", "1:193", "--text-tokens", "1:101", "--l1", "0:28", "--l2", "1:29"]
    process = subprocess.Popen(
        [*COMMAND, *axes, "--out", out],
        stderr=subprocess.PIPE,
        text=True,
        # a test run in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    parts, deadline = tmp_path / "sweep.csv.parts", time.monotonic() + 60
    try:
        while not (parts / "00000000").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
    assert "the same command goes on" in process.stderr.read()
    assert not out.exists() and os.listdir(parts)


def test_the_command_prints_the_quickest_rows():
    axes = ["--frames", "4", "--hardware", "h100-sxm,l40s", "--l1", "none,14"]
    rows = json.loads(run(*axes, "--top", "3", "--format", "json").stdout)
    times = [row["ttft_s"] for row in rows]
    assert len(times) == 3 and times == sorted(times)
    assert rows[0]["prune.l1"] is None and isinstance(rows[0]["total.flops"], int)
    lines = run(*axes, "--format", "csv").stdout.splitlines()
    assert lines[0].startswith("model,hardware,") and len(lines) == 11
    table = run(*axes).stdout
    assert max(map(len, table.splitlines())) <= 80
    assert "l40s" in table and "14:22" in table and "h100-sxm" in table


def test_all_axes_varied_still_fit_80_columns():
    models = "llava-onevision-qwen2-7b,llava-onevision-qwen2-0.5b"
    axes = ["--hardware", "jetson-orin-nano-super-8gb,rtx-pro-6000-blackwell-server"]
    axes += ["--model", models, "--execution", "eager,cuda-graph", "--text-tokens", "50,100"]
    text = run(*axes).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text and "TTFT ms" in text and "on 1: llava-" in text


def test_ranges_on_the_command_line():
    assert whole_numbers("8,16,1:4,10:31:10", "--frames") == (8, 16, 1, 2, 3, 10, 20, 30)
    assert whole_numbers("8,8", "--frames") == (8,)
    for wrong in ("a", "3:3", "1:9:0", "1:2:3:4", "1.5", ""):
        with pytest.raises(SpecError, match="--frames"):
            whole_numbers(wrong, "--frames")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--l1", "22", "--l2", "14"),
        ("--l1", "28", "--l2", "40"),
        ("--merge", "x"),
        ("--out", "a.b"),
    ],
)
def test_bad_input_is_one_line(arguments):
    error = run(*arguments, status=2).stderr
    assert error.startswith("error: ") and error.count("\n") == 1


def test_other_commands_import_neither_sympy_nor_pandas():
    code = "import sys, aim_cost.cli.main; print({'sympy', 'pandas'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()"
