"""Calls spread over a cluster: every result once, whatever happens to a worker."""

import time
from functools import partial

import pandas as pd
import pytest

from aim_cost.errors import SpecError
from aim_cost.hardware import load_hardware
from aim_cost.model import load_model_spec
from aim_cost.spread import spread
from aim_cost.sweep import Grid, pairs, sweep
from aim_cost.sweep.store import write_sweep
from aim_cost.workload import Execution


def squared(pause_s, number):
    time.sleep(pause_s)
    return number * number


def test_without_an_address_calls_are_made_here_in_order():
    assert list(spread(partial(squared, 0), [3, 1, 2])) == [(3, 9), (1, 1), (2, 4)]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(SpecError, match=r"aim-efficiency\[ray\]"):
        list(spread(partial(squared, 0), [1], "local"))


@pytest.fixture(scope="module")
def cluster():
    """A head and a worker with a core each, on this machine."""
    pytest.importorskip("ray", reason='pip install "aim-efficiency[ray]"')
    from ray.cluster_utils import Cluster

    try:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        worker = made.add_node(num_cpus=1)
    except Exception as error:  # ray's own kinds, and the system's where it forbids processes
        pytest.skip(f"no cluster can be started here: {error}")
    yield made, worker
    made.shutdown()


def test_an_address_where_nobody_listens():
    pytest.importorskip("ray", reason='pip install "aim-efficiency[ray]"')
    with pytest.raises(SpecError, match="ray start"):
        list(spread(partial(squared, 0), [1], "127.0.0.1:1"))


@pytest.mark.slow
def test_a_sweep_outlives_a_worker(cluster, tmp_path):
    """One of two nodes is killed after the first chunks: no row is lost, none is there twice."""
    grid = Grid(
        models=(load_model_spec("llava-onevision-qwen2-0.5b"),),
        hardware=(load_hardware("h100-sxm"),),
        executions=(Execution(),),
        frames=tuple(range(1, 65)),
        text_tokens=(50, 100),
        retentions=tuple(n / 16 for n in range(2, 17)),
        prunes=(None, *pairs(range(24), range(1, 25))),
    )
    assert grid.chunks > 5
    head, worker = cluster
    path, killed = tmp_path / "sweep.parquet", False
    for finished in write_sweep(grid, path, head.address):
        if finished >= 2 and not killed:
            head.remove_node(worker, allow_graceful=False)
            killed = True
    assert killed
    pd.testing.assert_frame_equal(pd.read_parquet(path), sweep(grid))
    assert not path.with_name("sweep.parquet.parts").exists()
