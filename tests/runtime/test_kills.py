"""Kills of each long command lose nothing that was finished, and double nothing."""

import os
import subprocess
import sys

import pytest

from tests.runtime import killed


@pytest.mark.parametrize("name", killed.WORKS)
def test_kills_of_a_process(name, tmp_path):
    command = [sys.executable, "-m", "tests.runtime.killed", name, str(tmp_path)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
