"""Calls spread over a cluster: every result once, whatever happens to a worker."""

import sys
import time
from functools import partial
from types import ModuleType

import pandas as pd
import pytest

from aim_cost import Execution, load_hardware, load_model_spec, pairs
from aim_cost.errors import SpecError
from aim_cost.imports import MissingLibraryError
from aim_cost.sweeps import Grid, all_rows
from aim_cost.sweeps.chunk import chunk
from aim_cost.sweeps.spread import spread
from aim_cost.sweeps.store import write_sweep


def small_grid(**axes):
    usual = {
        "models": (load_model_spec("llava-onevision-qwen2-0.5b"),),
        "hardware": (load_hardware("h100-sxm"),),
        "executions": (Execution(),),
        "text_tokens": (100,),
    }
    return Grid(**usual | axes)


def squared(pause_s, number):
    time.sleep(pause_s)
    return number * number


def test_without_an_address_calls_are_made_here_in_order():
    assert list(spread(partial(squared, 0), [3, 1, 2])) == [(3, 9), (1, 1), (2, 4)]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingLibraryError, match=r"aim-efficiency\[ray\]', or leave --ray out"):
        list(spread(partial(squared, 0), [1], "local"))


@pytest.fixture(scope="module")
def cluster():
    """A head and a worker with a core each, on this machine."""
    pytest.importorskip("ray", reason='pip install "aim-efficiency[ray]"')
    from ray.cluster_utils import Cluster

    try:
        soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": soon})
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
def test_an_error_on_a_worker_is_the_one_raised_here(cluster, monkeypatch):
    """On one line, of its own kind; what a worker cannot import is told apart."""
    grid = small_grid(frames=(4,))
    with pytest.raises(SpecError, match="the chunks of the sweep") as raised:
        list(spread(partial(chunk, grid), [grid.chunks], cluster[0].address))
    assert "\n" not in str(raised.value)
    with pytest.raises(SpecError, match=r"No module named 'only_here'.*every node"):
        list(spread(only_here(monkeypatch), [1], cluster[0].address))


def only_here(monkeypatch):
    """A function of a module that no worker can import."""
    module = ModuleType("only_here")
    exec("def same(item): return item", module.__dict__)
    module.same.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.same


@pytest.mark.slow
def test_a_sweep_outlives_a_worker(cluster, tmp_path):
    """One of two nodes is killed after the first chunks: no row is lost, none is there twice."""
    grid = small_grid(
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
    pd.testing.assert_frame_equal(pd.read_parquet(path), all_rows(grid), check_exact=True)
    assert not path.with_name("sweep.parquet.parts").exists()
