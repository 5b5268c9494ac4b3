"""A campaign: kernels, prefills and decoding of several models, resumable, in one folder."""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from aim_cost.checks import one_of
from aim_cost.model import load_model_spec
from aim_cost.report import console
from aim_cost.schedule import Schedule
from aim_cost.workload import Workload
from aim_runtime.decode import measure_decode
from aim_runtime.errors import MeasurementError
from aim_runtime.load import load
from aim_runtime.measure import Row, measure, read_rows, write_rows
from aim_runtime.microbench import PROFILE_FILE, microbench

KERNELS, PREFILL, DECODE = "kernels", "prefill.json", "decode.json"
"""What a campaign's folder holds: kernel tables for aim-cost calibrate, and two files of rows."""

_SMALL, _LARGE = "llava-onevision-qwen2-0.5b", "llava-onevision-qwen2-7b"


@dataclass(frozen=True)
class Step:
    """Schedules of one model and workload, timed interleaved.

    Args:
        execution: as in ``measure``, or ``decode``.
        model: a preset, or the path of a config.json.
    """

    model: str
    frames: int
    text_tokens: int
    schedules: tuple[Schedule, ...]
    execution: str = "eager"

    @property
    def workload(self) -> Workload:
        return Workload(text_tokens=self.text_tokens, frames=self.frames)


def h200_steps() -> list[Step]:
    """LLaVA-OneVision 0.5B and 7B, 8 to 192 frames: what fits and is short comes first."""
    steps = []
    for model in (_SMALL, _LARGE):
        layers = load_model_spec(model).text.num_hidden_layers
        fit, held_out = fit_schedules(layers), held_out_schedules(layers)
        every = (Schedule(), *fit, *held_out)
        steps += [Step(model, frames, 100, every) for frames in (8, 16, 32)]
        steps += [Step(model, 32, text, every) for text in (50, 500)]
        both = Schedule.parse(f"merge 0.25, prune {ramp(layers, 14, 22)}")
        steps.append(Step(model, 32, 100, (Schedule(), both), "decode"))
        steps.append(Step(model, 32, 100, (Schedule(), both), "cuda-graph"))
        pruned = Schedule.parse(f"prune {ramp(layers, 14, 22)}")
        steps.append(Step(model, 8, 100, (pruned,), "masked"))
        steps.append(Step(model, 32, 100, (both,), "masked"))
        steps += [Step(model, frames, 100, every) for frames in (64, 128, 192)]
    return steps


def fit_schedules(layers: int) -> tuple[Schedule, ...]:
    """Schedules whose rows a fit may see."""
    labels = (
        "merge 0.5",
        "merge frame:24",
        f"prune {ramp(layers, 14, 22)}",
        f"merge 0.25, prune {ramp(layers, 7, 22)}",
    )
    return tuple(map(Schedule.parse, labels))


def held_out_schedules(layers: int) -> tuple[Schedule, ...]:
    """Schedules whose rows no fit ever sees: other counts, other depths, other methods."""
    quarter = layers // 4  # PyramidDrop's: halved at each quarter of the depth
    pyramid = ["1"] * (quarter - 1) + ["0.5"] * quarter + ["0.25"] * quarter + ["0.125"]
    labels = (
        "merge 0.25",
        f"merge 0.25, prune {ramp(layers, 14, 22)}",
        f"merge 0.25, prune {ramp(layers, 21, 29)}",
        "prune ratios:1,0.5 score=text-attention",  # FastV's: half leave after the second layer
        f"prune ratios:{','.join(pyramid)} score=text-attention",
    )
    return tuple(map(Schedule.parse, labels))


def ramp(layers: int, first: int, last: int) -> str:
    """AIM's (l1, l2), given for 28 layers, at the same share of another depth."""
    return f"linear:{layers * first // 28}:{layers * last // 28}"


SUITES = {"h200": h200_steps}


def run_suite(
    name: str, folder: Path, *, device: str | None = None, minutes: float | None = None
) -> list[Row]:
    """Run a suite of SUITES; see ``run_campaign``. Raises: MeasurementError for another name."""
    one_of(name, SUITES, "--suite", MeasurementError)
    return run_campaign(SUITES[name](), folder, device=device, minutes=minutes)


def run_campaign(
    steps: Sequence[Step],
    folder: Path,
    *,
    device: str | None = None,
    dtype: str = "bfloat16",
    repeats: int = 10,
    minutes: float | None = None,
    kernel_seconds: float | None = None,
) -> list[Row]:
    """Time the kernels of the largest step, then every step, and keep what was done before.

    Args:
        folder: of KERNELS, PREFILL and DECODE; each row is there as soon as it is measured.
        minutes: begin no further step after that many; call again to go on.
        kernel_seconds: as ``seconds`` of ``microbench``.
    Returns: all rows so far. A step that fails is a row with its error; the others go on.
    """
    end_s = time.monotonic() + 60 * minutes if minutes else float("inf")
    folder.mkdir(parents=True, exist_ok=True)
    left = [step for step in steps if not _is_done(step, folder, dtype, repeats)]
    out = console(error=True)
    for model, group in groupby(tuple(left), key=lambda step: step.model):
        if time.monotonic() >= end_s:
            break
        loaded = load(model, device, dtype, random_weights=True)
        kernels = folder / KERNELS / loaded.spec.name
        if not (kernels / PROFILE_FILE).exists():
            # half of the frames: their sizes reach those of the rest
            frames = max(step.frames for step in steps if step.model == model) // 2 or 1
            half = Workload(text_tokens=100, frames=frames)
            microbench(loaded.spec, half, kernels, loaded.device, dtype, kernel_seconds)
        for step in group:
            if time.monotonic() >= end_s:
                break
            out.print(f"{model}, {step.frames} frames, {step.text_tokens} text, {step.execution}")
            if step.execution == "decode":
                rows = measure_decode(loaded, step.workload, step.schedules, repeats=repeats)
                write_rows(folder / DECODE, [*read_rows(folder / DECODE), *rows])
            else:
                measure(
                    *(loaded, step.workload, step.schedules),
                    repeats=repeats,
                    out=folder / PREFILL,
                    resume=True,
                    execution=step.execution,
                )
            left.remove(step)
        del loaded
        gc.collect()  # before the next model is made: modules and hooks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if left:
        out.print(f"{len(left)} of {len(steps)} steps are left: run the same command again")
    return [*read_rows(folder / PREFILL), *read_rows(folder / DECODE)]


def _is_done(step: Step, folder: Path, dtype: str, repeats: int) -> bool:
    """Whether every schedule of a step has its row, failed ones included."""
    name = load_model_spec(step.model).name
    path = folder / (DECODE if step.execution == "decode" else PREFILL)
    key = (name, step.frames, step.text_tokens, dtype, step.execution)
    fields = ("model", "frames", "text_tokens", "dtype", "execution")
    done = {
        row["schedule"]
        for row in read_rows(path)
        if tuple(row[field] for field in fields) == key
        and (row["error"] or row["repeats"] >= repeats)
    }
    return {schedule.label() for schedule in step.schedules} <= done
