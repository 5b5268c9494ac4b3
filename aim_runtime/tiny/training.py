"""The training loop of both stages: resumable after a kill, with the same result to the bit."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from aim_cost.files import write_atomically
from aim_cost.report import console
from aim_runtime.errors import InputError

Row = dict[str, Any]

STATE_FILE = "training.safetensors"
_WARMUP_STEPS = 30
_CLIP_NORM = 1.0
_LAST_RATE = 0.02


class Stage(Protocol):
    """One stage of the training.

    Args:
        name: unlike that of any other stage.
        steps: optimizer steps in all.
        module: holds every parameter that the stage changes.
        optimizers: over parameters of ``module``; the learning rates are those of the peak.
    """

    name: str
    steps: int
    module: nn.Module
    optimizers: tuple[Optimizer, ...]

    def loss(self, step: int) -> Tensor:
        """The loss of a step's batch, which depends on the step alone."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Accuracies on the validation split."""
        ...


@dataclass
class Progressed:
    """How far a run is: the stage, its next step, seconds so far, and a row at each validation."""

    stage: str = ""
    step: int = 0
    time_s: float = 0.0
    curve: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Rhythm:
    """How often a stage is validated and saved, in steps."""

    validate_every: int = 100
    save_every: int = 50


def run_stage(stage: Stage, done: Progressed, folder: Path, rhythm: Rhythm) -> Progressed:
    """Train ``stage`` from where ``folder`` has it, or from its start; returns the progress.

    Args: done, what earlier stages report. The state is written to STATE_FILE every few steps.
    """
    if done.stage == stage.name:
        restore(stage, folder)
    else:
        done.stage, done.step = stage.name, 0
    peaks = [[group["lr"] for group in each.param_groups] for each in stage.optimizers]
    started = time.monotonic() - done.time_s
    with _progress_bar() as bar:
        task = bar.add_task(stage.name, total=stage.steps, completed=done.step, shown="")
        while done.step < stage.steps:
            loss = _take_step(stage, done.step, peaks)
            done.step += 1
            done.time_s = time.monotonic() - started
            if done.step % rhythm.validate_every == 0 or done.step == stage.steps:
                row = {"stage": stage.name, "step": done.step, "time_s": round(done.time_s, 1)}
                row |= {"loss": loss} | dict(stage.validate())
                done.curve.append({k: _rounded(v) for k, v in row.items()})
                bar.update(task, shown=_shown(done.curve[-1]))
            if done.step % rhythm.save_every == 0 or done.step == stage.steps:
                save_state(stage, done, folder)
            bar.update(task, completed=done.step)
    return done


def _take_step(stage: Stage, step: int, peaks: list[list[float]]) -> float:
    scale = _rate(step, stage.steps)
    loss = stage.loss(step)
    loss.backward()
    nn.utils.clip_grad_norm_(stage.module.parameters(), _CLIP_NORM)
    for optimizer, rates in zip(stage.optimizers, peaks, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * scale
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _rate(step: int, steps: int) -> float:
    """A share of the peak rate: a linear warm-up, then half a cosine."""
    cosine = (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (step + 1) / _WARMUP_STEPS) * (_LAST_RATE + (1 - _LAST_RATE) * cosine)


def save_state(stage: Stage, done: Progressed, folder: Path) -> None:
    """Write all that ``restore`` needs."""
    tensors = {f"module.{name}": p.detach() for name, p in stage.module.named_parameters()}
    for index, optimizer in enumerate(stage.optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{parameter}.{key}": x for key, x in state.items()}
    write_atomically(folder / STATE_FILE, save(tensors, {"progress": json.dumps(vars(done))}))


def read_progress(folder: Path) -> Progressed:
    """How far the run in ``folder`` is; the start, where there is none. Raises: InputError."""
    path = folder / STATE_FILE
    if not path.exists():
        return Progressed()
    try:
        with safe_open(path, "pt") as file:
            return Progressed(**json.loads(file.metadata()["progress"]))
    except Exception as cause:
        raise InputError(
            str(path),
            expected="the state of a training run",
            got=f"a file that cannot be read ({cause})",
            fix="Delete it and train again.",
        ) from cause


def restore(stage: Stage, folder: Path) -> None:
    """Give the stage the parameters and optimizer states that ``save_state`` wrote."""
    with safe_open(folder / STATE_FILE, "pt") as file:
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in stage.optimizers]
        with torch.no_grad():
            for name, parameter in stage.module.named_parameters():
                parameter.copy_(file.get_tensor(f"module.{name}"))
        for name in file.keys():  # noqa: SIM118, a handle and no mapping
            if name.startswith("optimizer."):
                _, index, number, key = name.split(".")
                states[int(index)].setdefault(int(number), {})[key] = file.get_tensor(name)
    for optimizer, state in zip(stage.optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
        console=console(error=True),
    )


def _shown(row: Row) -> str:
    return f"loss {row['loss']:.2f}, accuracy {row['accuracy']:.3f}"


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
