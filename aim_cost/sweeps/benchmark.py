"""benchmark(): how many schedules a second a sweep prices on this machine."""

import time
from statistics import median
from typing import Any

from aim_cost.case import Case
from aim_cost.sweeps.chunk import chunk
from aim_cost.sweeps.grid import CHUNK_ROWS, Grid, pairs

_CHUNKS = 4


def benchmark(case: Case, repeats: int = 9) -> dict[str, Any]:
    """Schedules per second, each rate the median of ``repeats`` runs over the same chunks.

    Whole chunks are timed, from the grid to the DataFrame, after a warm-up that fills the tables;
    ``tables_s`` is the time to fill them. Clock: perf_counter. One core: numpy's elementwise
    functions start no threads. Frames and text tokens vary, whatever the case has.
    """
    layers = case.model.text.num_hidden_layers
    grid = Grid(
        models=(case.model,),
        hardware=(case.device,),
        executions=(case.execution,),
        frames=tuple(range(1, 193)),
        text_tokens=(20, 100, 500),
        retentions=(1.0, 0.5, 0.25, 0.125),
        prunes=pairs((None, *range(layers)), range(1, layers + 1)),
        batch=case.workload.batch,
        calibration=case.calibration,
    )
    start = time.perf_counter()
    chunk(grid, 0)
    tables_s = time.perf_counter() - start
    return {
        "flops_schedules_per_s": _rate(grid, repeats, times=False),
        "time_schedules_per_s": _rate(grid, repeats, times=True),
        "rows_per_run": _CHUNKS * CHUNK_ROWS,
        "repeats": repeats,
        "statistic": "median",
        "cores": 1,
        "tables_s": tables_s,
        "model": case.model.name,
        "hardware": case.device.name,
        "execution": case.execution.mode,
    }


def _rate(grid: Grid, repeats: int, *, times: bool) -> float:
    def run_s() -> float:
        start = time.perf_counter()
        for index in range(_CHUNKS):
            chunk(grid, index, times=times)
        return time.perf_counter() - start

    run_s()
    return _CHUNKS * CHUNK_ROWS / median(run_s() for _ in range(repeats))
