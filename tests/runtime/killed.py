"""Long work in processes that are killed, again and again: what is kept after each kill?

Run as ``python -m tests.runtime.killed NAME FOLDER`` by test_kills.py, in a process of its own with
one thread, which forks a child for each kill.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from aim_cost.cli.main import app as cost_app
from aim_cost.files.json_text import json_tree
from aim_cost.models.workload import Workload
from aim_cost.sweeps import grid as sweep_grid

KILLS = 20 if "AIM_FUZZ" in os.environ else 3
SCHEDULES = [f"merge frame:{tokens}" for tokens in range(1, 9)]


@dataclass(frozen=True)
class Work:
    """Work that goes on where it was cut off.

    Args: run, to the end; kept, what is finished by key, which raises where something is double
        or broken; whole, how many of them there are in the end; seconds, about how long it takes.
    """

    run: Callable[[], None]
    kept: Callable[[], dict[Hashable, Any]]
    whole: int
    seconds: float


def measure_work(folder: Path) -> Work:
    """Rows of ``measure``, one schedule more a call."""
    from aim_runtime.measurement.measure import measure
    from aim_runtime.measurement.row_file import read_rows
    from aim_runtime.models.load import load
    from tests.runtime.support import tiny_llava

    loaded = load(tiny_llava().config.to_dict(), "cpu", "float32", random_weights=True)
    out = folder / "rows.json"

    def run() -> None:
        workload = Workload(text_tokens=5, frames=2)
        for number in range(1, len(SCHEDULES) + 1):
            chosen = SCHEDULES[:number]
            measure(loaded, workload, chosen, repeats=2, warmup=0, out=out, resume=True)

    def kept() -> dict[Hashable, Any]:
        rows = read_rows(out)
        assert len({row.key for row in rows}) == len(rows), "a row is double"
        return {row.key: row for row in rows if row.repeats == 2}

    return Work(run, kept, len(SCHEDULES), 0.6)


def accuracy_work(folder: Path) -> Work:
    """Rows of ``aim-runtime accuracy`` beside those of another exam in the same file."""
    from aim_runtime.cli.main import app

    out = folder / "rows.json"
    arguments = ["accuracy", "--questions", "14", "--draws", "1", "--out", str(out), "--resume"]
    arguments += [part for one in SCHEDULES[:3] for part in ("--schedule", one)]

    def run() -> None:
        for frames in ("2", "3"):
            app([*arguments, "--frames", frames], standalone_mode=False)

    def kept() -> dict[Hashable, Any]:
        if not out.exists():
            return {}
        rows = json_tree(out.read_text())["rows"]
        keys = [(row["frames"], row["schedule"], row["kind"]) for row in rows]
        assert len(set(keys)) == len(keys), "a row is double"
        kinds = len({kind for *_, kind in keys})
        assert len(keys) % kinds == 0, "a schedule lacks a row"
        return dict(zip(keys, rows, strict=True))

    return Work(run, kept, 2 * 7 * 4, 1.0)


def sweep_work(folder: Path, suffix: str) -> Work:
    """Chunks of ``aim-cost sweep --out``, and then the file."""
    out = folder / f"sweep{suffix}"
    arguments = ["sweep", "--frames", "1:21", "--l1", "none,0:20", "--l2", "24", "--merge", "1,0.5"]

    def run() -> None:
        with mock.patch.object(sweep_grid, "CHUNK_ROWS", 40):
            cost_app([*arguments, "--out", str(out)], standalone_mode=False)

    def kept() -> dict[Hashable, Any]:
        parts = folder / f"{out.name}.parts"
        names = list(parts.glob("[0-9]*")) if parts.exists() else []
        found: dict[Hashable, Any] = {path.name: path.read_bytes() for path in names}
        if not out.exists():
            return found
        frame = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
        assert len(frame) == 840, "rows are lost or double"
        assert not frame.duplicated().any(), "a row is double"
        return {f"{number:08d}": None for number in range(21)}  # joined, and gone by now

    return Work(run, kept, 21, 0.6)


def log_work(folder: Path) -> Work:
    """Lines of the log of lmms-eval, each acknowledged in a file of its own after it is written."""
    from aim_runtime.lmms_eval.log import SampleLog

    def run() -> None:
        number = sum(1 for _ in folder.glob("*.jsonl"))
        log, told = SampleLog(folder / f"{number}.jsonl"), folder / f"{number}.told"
        for answer in range(100_000):
            log.append({"doc_id": answer, "text": "x" * (answer % 300)})
            with told.open("a") as file:
                file.write(f"{answer}\n")

    def kept() -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {}
        for path in folder.glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            assert [row["request"] for row in rows] == list(range(len(rows))), "lost or double"
            told = path.with_suffix(".told")
            said = len(told.read_text().splitlines()) if told.exists() else 0
            assert said <= len(rows) <= said + 1, "a line is lost"
            found |= {(path.name, row["request"]): row for row in rows}
        return found

    return Work(run, kept, 0, 0.1)


WORKS = {
    "measure": measure_work,
    "accuracy": accuracy_work,
    "sweep.csv": lambda folder: sweep_work(folder, ".csv"),
    "sweep.parquet": lambda folder: sweep_work(folder, ".parquet"),
    "log": log_work,
}


def rehearse(name: str, folder: Path) -> None:
    """Kill the work KILLS times, and then let it end."""
    chance = random.Random()
    work, killed, kept = WORKS[name](folder), 0, {}
    while killed < KILLS:
        if _killed(work, chance):
            killed += 1
        elif name != "log":  # it was too quick, or is done: begin anew
            assert len(work.kept()) == work.whole
            _clear(folder)
            kept = {}
            continue
        found = work.kept()
        check(kept, found)
        kept = found
    if name != "log":
        work.run()
        found = work.kept()
        assert len(found) == work.whole
        check(kept, found)
        visible = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        assert len(visible) == 1, visible


def check(kept: dict[Hashable, Any], found: dict[Hashable, Any]) -> None:
    """What was kept before is kept still, and is what it was."""
    assert kept.keys() <= found.keys(), "something is lost"
    for key, value in kept.items():
        assert value is None or found[key] in (value, None), f"{key} is not what it was"


def _killed(work: Work, chance: random.Random) -> bool:
    """Fork a child that works; whether it was killed before it was done."""
    child = os.fork()
    if child == 0:
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                work.run()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    time.sleep(chance.uniform(0, work.seconds))
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return False


def _clear(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


if __name__ == "__main__":
    rehearse(sys.argv[1], Path(sys.argv[2]))
