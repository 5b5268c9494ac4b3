"""Twenty kills of each long command: nothing that was finished is lost, and nothing is double."""

import os
import subprocess
import sys
from itertools import count

import pytest

from tests.runtime import killed


class Killed(BaseException):
    """No handler of errors may catch it."""


@pytest.mark.parametrize("name", killed.WORKS)
def test_twenty_kills_of_a_process(name, tmp_path):
    command = [sys.executable, "-m", "tests.runtime.killed", name, str(tmp_path)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


WRITERS = {
    "measure": "aim_runtime.measurement.row_file.write_atomically",
    "accuracy": "aim_runtime.answers.accuracy_file.write_atomically",
    "sweep.csv": "aim_cost.sweeps.store.write_atomically",
    "sweep.parquet": "aim_cost.sweeps.store.write_atomically",
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_at_each_write(name, after, tmp_path, monkeypatch):
    """Before a write what is there stays; after it the next call goes on from there."""
    work, kept = killed.WORKS[name](tmp_path), {}
    module, _, function = WRITERS[name].rpartition(".")
    write = getattr(sys.modules[module], function)
    for kills in count():  # noqa: B007
        left = iter(range(0 if after else 1))  # writes that succeed before the kill

        def strike(path, content, left=left):
            if next(left, None) is not None:
                return write(path, content)
            if after:
                write(path, content)
            raise Killed

        monkeypatch.setattr(WRITERS[name], strike)
        try:
            work.run()
        except Killed:
            found = work.kept()
            killed.check(kept, found)
            kept = found
            continue
        break
    found = work.kept()
    killed.check(kept, found)
    assert len(found) == work.whole
    assert kills >= min(work.whole // 7, 8)
