"""Kernel tables of the present device, in the columns that aim-cost calibrate reads."""

import math
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aim_cost.files import make_folder, write_atomically
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Workload
from aim_cost.render import Row, console
from aim_cost.timing.fit.table import table_name
from aim_cost.timing.form import Ceilings
from aim_cost.units import dtype_bytes
from aim_runtime.errors import MeasurementError
from aim_runtime.kernels.case import Case, Pool, Work
from aim_runtime.kernels.device import present_hardware
from aim_runtime.kernels.dispatch import dispatch_rows, graph_elapsed_s
from aim_runtime.kernels.elementwise import elementwise_cases
from aim_runtime.kernels.products import attention_cases, gemm_cases
from aim_runtime.kernels.profile_file import profile_yaml
from aim_runtime.kernels.score import score_cases
from aim_runtime.kernels.sizes import Sizes
from aim_runtime.measurement.attention_backend import (
    AttentionBackend,
    attention_backend,
    chosen_backend,
)
from aim_runtime.reduction.importance_kernel import scoring

DEFAULT_SECONDS = {"cpu": 80.0, "cuda": 60.0}
PROFILE_FILE = "hardware.yaml"
_LEAST_ROUNDS = 5  # the first of them is a warm-up
_EXPECTED_EFFICIENCY = 0.4
_SMALL_S = 2e-3  # kernels shorter than this run several times a round
_RUNS = 3
_LAUNCHES = 10  # of a kernel in one CUDA graph
_COLD_BYTES = 2**28  # several times any last-level cache

_ATTENTION_TABLES = "causal_attention", "encoder_attention"


@dataclass(frozen=True)
class Sample:
    """Seconds of one run; disturbed, whether another process got one of our cores meanwhile."""

    time_s: float
    disturbed: bool


Sampler = Callable[[Case], Sample]


def microbench(
    spec: ModelSpec,
    workload: Workload,
    folder: Path,
    device: torch.device,
    dtype: str = "bfloat16",
    seconds: float | None = None,
    attention: AttentionBackend | None = None,
) -> list[Path]:
    """Time the kernels of a prefill and write a table of each kind, and the profile, to ``folder``.

    Sizes: geometric steps up to the unreduced prompt of ``workload``, at the model's dims and at
    others around them. Clock: the monotonic one on a CPU; CUDA events around the replay of a graph
    of ten launches on a GPU. Every round runs all cases once or, where they are short, three times,
    in a new random order; rounds go on for ``seconds`` (80 on a CPU, 60 on a GPU). The first warms
    up. Statistic: the median of the runs during which no other process took a core from this one,
    or of all runs where there is none. Cases that would not fit into the time five times are left
    out, the longest first. Ctrl-C writes what there is. Rows of attention name its backend:
    ``attention``, or the one that torch takes for the model's decoder.

    Returns: the files. Raises: MeasurementError for another device or tower, or too short a time.
    """
    if device.type not in DEFAULT_SECONDS:
        raise MeasurementError(
            "device", expected="cuda or cpu", got=device.type, fix="Choose one of them."
        )
    if seconds is not None and not 0 < seconds < math.inf:
        raise MeasurementError(
            "seconds", expected="a number above 0", got=seconds, fix="Leave it out, or correct it."
        )
    if spec.vision.any_size:
        raise MeasurementError(
            f"model {spec.name}",
            expected="a model with a SigLIP or CLIP tower",
            got=spec.vision.model_type,
            fix="Take llava-onevision-qwen2-7b: its LLM has the same dims. To validate, name a "
            "--hardware.",
        )
    make_folder(folder)
    start = time.perf_counter()
    budget_s = DEFAULT_SECONDS[device.type] if seconds is None else seconds
    profile = present_hardware(device, dtype)
    ceilings, width = Ceilings.of(profile, dtype), dtype_bytes(dtype)
    sizes = Sizes.of(spec, workload)
    cases = gemm_cases(spec, sizes, width) + attention_cases(spec, sizes, width)
    cases += elementwise_cases(spec, sizes, width)
    if scoring(device) == "fused":
        cases += score_cases(spec, sizes, width)
    cases = _affordable(cases, ceilings, width, budget_s / _LEAST_ROUNDS)
    kind = getattr(torch, dtype)
    weights = max(_COLD_BYTES // width, *(case.weights for case in cases))
    pool = Pool(device, kind, weights, max(case.activations for case in cases))
    sample = _clock_sampler(pool) if device.type == "cpu" else _graph_sampler(pool)
    with torch.inference_mode(), attention_backend(attention):
        rows = dispatch_rows(spec, device, kind)
        samples = _rounds(cases, sample, start + budget_s)
    tables = _tables(cases, samples)
    backend = attention or chosen_backend(spec.text, device, dtype)
    for name in _ATTENTION_TABLES:
        tables[name] = [{**row, "attention_backend": backend.value} for row in tables[name]]
    tables["dispatch"] = rows
    paths = [folder / PROFILE_FILE]
    write_atomically(paths[0], profile_yaml(profile).encode())
    return paths + [
        _write(pd.DataFrame(table), folder / table_name(profile.name, op, dtype))
        for op, table in tables.items()
    ]


def _affordable(
    cases: Sequence[Case], ceilings: Ceilings, width: int, round_s: float
) -> list[Case]:
    """The cases that fit into a round, the shortest first."""
    bytes_per_s = ceilings.elements_per_s * width

    def expected_s(case: Case) -> float:
        least_s = case.flops / ceilings.flops_per_s + case.moved_bytes / bytes_per_s
        return least_s / _EXPECTED_EFFICIENCY

    chosen, total_s = [], 0.0
    for case in sorted(cases, key=expected_s):
        total_s += expected_s(case)
        if total_s > round_s:
            break
        chosen.append(case)
    if {case.table for case in chosen} != {case.table for case in cases}:
        raise MeasurementError(
            "seconds",
            expected="time for kernels of every kind",
            got=f"{round_s * _LEAST_ROUNDS:.0f} s",
            fix="Give more seconds, or fewer frames.",
        )
    return chosen


def _rounds(cases: list[Case], sample: Sampler, until: float) -> dict[int, list[Sample]]:
    """Samples of each case by its place in ``cases``, from rounds until the clock says ``until``.

    A round that the clock would cut short is not begun, but for the second: without it there is
    no measurement.
    """
    samples: dict[int, list[Sample]] = {place: [] for place in range(len(cases))}
    warm: dict[int, float] = {}
    order, shuffled = list(samples), random.Random(0)
    begun = time.perf_counter()
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    try:
        with Progress(*columns, console=console(error=True), transient=True) as progress:
            task = progress.add_task(f"timing {len(cases)} kernels", total=until - begun)
            longest = 0.0  # of the rounds after the first, which captures and compiles
            while not all(samples.values()) or time.perf_counter() + longest < until:
                round_start = time.perf_counter()
                shuffled.shuffle(order)
                for place in order:
                    if place not in warm:
                        warm[place] = sample(cases[place]).time_s
                    else:
                        runs = _RUNS if warm[place] < _SMALL_S else 1
                        samples[place] += [sample(cases[place]) for _ in range(runs)]
                    progress.update(task, completed=time.perf_counter() - begun)
                if all(samples.values()):
                    longest = max(longest, time.perf_counter() - round_start)
    except KeyboardInterrupt:
        print("interrupted: the tables hold what was measured", file=sys.stderr)
    return samples


def _clock_sampler(pool: Pool) -> Sampler:
    def sample(case: Case) -> Sample:
        pool.start()
        work = case.make(pool)
        pool.free_scratch(case.scratch)
        before = _times_taken()
        start = time.perf_counter()
        work()
        time_s = time.perf_counter() - start
        return Sample(time_s, disturbed=_times_taken() > before)

    return sample


def _times_taken() -> int:
    """How often the system took a core from one of our threads and gave it to someone else."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _graph_sampler(pool: Pool) -> Sampler:
    # a graph reads the inputs of its kernels wherever they lay: they live as long as it does
    graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Work]]] = {}
    memory = torch.cuda.graph_pool_handle()

    def graph_of(case: Case) -> tuple[torch.cuda.CUDAGraph, list[Work]]:
        works = []
        for _ in range(_LAUNCHES):
            pool.start()
            works.append(case.make(pool))
        works[0]()  # loads the kernel and fills caches of plans, which a capture must not do
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory):
            for work in works:
                work()
        return graph, works

    def sample(case: Case) -> Sample:
        if id(case) not in graphs:
            graphs[id(case)] = graph_of(case)
        graph, _ = graphs[id(case)]
        return Sample(graph_elapsed_s(graph) / _LAUNCHES, disturbed=False)

    return sample


def _tables(cases: Sequence[Case], samples: dict[int, list[Sample]]) -> dict[str, list[Row]]:
    """Medians of the samples that nobody disturbed, or of all where somebody always did."""
    tables: dict[str, list[Row]] = {}
    for place, taken in samples.items():
        quiet = [sample.time_s for sample in taken if not sample.disturbed]
        times = quiet or [sample.time_s for sample in taken]
        if times:
            case = cases[place]
            tables.setdefault(case.table, []).append(case.to_row(median(times), len(times)))
    return tables


def _write(frame: pd.DataFrame, stem: Path) -> Path:
    """Parquet where pyarrow is installed, else CSV."""
    try:
        content, path = frame.to_parquet(index=False), stem.with_suffix(".parquet")
    except ImportError:
        content, path = frame.to_csv(index=False).encode(), stem.with_suffix(".csv")
    stem.with_suffix(".parquet").unlink(missing_ok=True)
    stem.with_suffix(".csv").unlink(missing_ok=True)
    write_atomically(path, content)
    return path
