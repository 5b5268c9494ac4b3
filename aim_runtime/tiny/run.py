"""Run: a training in progress, with its model, optimizers and step, which a folder keeps."""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from aim_cost.checks import whole
from aim_cost.files import make_folder, write_atomically
from aim_cost.files.json_text import json_tree
from aim_runtime.errors import LoadError
from aim_runtime.tiny.checkpoint import SHIPPED, load_tiny
from aim_runtime.tiny.heads import Heads
from aim_runtime.tiny.model import new_model, start_with
from aim_runtime.tiny.recipe import Recipe

CURVE_FILE, STATE_FILE = "curve.json", "state.safetensors"
_STREAMS = ("vision", "pool", "answers")
_CLIP_NORM = 1.0


class Run:
    """The state that ``train`` works on, new or read from ``folder``.

    Raises: LoadError for a state that cannot be read, or of another seed or recipe.
    """

    def __init__(self, seed: int, folder: Path, recipe: Recipe) -> None:
        self.seed, self.folder, self.recipe = (
            whole(seed, "seed", LoadError, at_least=0),
            folder,
            recipe,
        )
        make_folder(folder)
        self.model = new_model(seed, recipe.frame_size)
        if recipe.start is not None:
            start_with(self.model, load_tiny(SHIPPED[recipe.start]))
        self.heads = Heads(self.model.config.get_text_config().hidden_size, seed)
        self.done = {"vision": 0, "answers": 0}
        self.curve: list[dict[str, Any]] = []
        self._spent, self._since = (0.0, 0.0), _clocks()
        self._states: dict[str, Tensor] = {}  # of the optimizers, by dotted name
        if self._file.exists():
            self._load()

    @property
    def _file(self) -> Path:
        return self.folder / STATE_FILE

    @property
    def _modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({"model": self.model, "heads": self.heads})

    def rng(self, stream: str, step: int) -> np.random.Generator:
        """The random generator of a step, which does not depend on the steps before."""
        return np.random.default_rng([self.seed, _STREAMS.index(stream), step])

    def save(self, stage: str, step: int, optimizers: Sequence[Optimizer]) -> None:
        """Write the state after ``step`` steps of ``stage``, and the curve."""
        self._count_time()
        self.done[stage] = step
        tensors = {name: p.detach() for name, p in self._modules.named_parameters()}
        for index, optimizer in enumerate(optimizers):
            for number, state in optimizer.state_dict()["state"].items():
                prefix = f"optimizer.{stage}.{index}.{number}"
                tensors |= {f"{prefix}.{key}": x for key, x in state.items()}
        told = self._told()
        state = save(tensors, {"run": json.dumps({"done": self.done, **told})})
        write_atomically(self._file, state)
        write_atomically(self.folder / CURVE_FILE, (json.dumps(told, indent=2) + "\n").encode())

    def restore(self, stage: str, optimizers: Sequence[Optimizer]) -> None:
        """Give the optimizers of ``stage`` the states that were read, if there are any."""
        for index, optimizer in enumerate(optimizers):
            states: dict[int, dict[str, Tensor]] = {}
            prefix = f"optimizer.{stage}.{index}."
            for name, tensor in self._states.items():
                if name.startswith(prefix):
                    number, key = name.removeprefix(prefix).split(".")
                    states.setdefault(int(number), {})[key] = tensor
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": groups})

    def _count_time(self) -> None:
        now = _clocks()
        wall, cpu = (s + n - b for s, n, b in zip(self._spent, now, self._since, strict=True))
        self._spent, self._since = (wall, cpu), now

    def _told(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "seconds": round(self._spent[0], 1),
            "cpu_seconds": round(self._spent[1], 1),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "recipe": asdict(self.recipe),
            "curve": self.curve,
        }

    def _load(self) -> None:
        try:
            with safe_open(self._file, "pt") as file:
                told = json_tree(file.metadata()["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError) as cause:
            raise self._unusable("a file that cannot be read") from cause
        mine = json.loads(json.dumps(self._told()))
        for field in ("seed", "recipe"):
            if told[field] != mine[field]:
                raise self._unusable(f"the state of another {field}")
        with torch.no_grad():
            for name, parameter in self._modules.named_parameters():
                parameter.copy_(tensors.pop(name))
        self.done, self.curve = told["done"], told["curve"]
        self._spent = told["seconds"], told["cpu_seconds"]
        self._states = tensors

    def _unusable(self, got: str) -> LoadError:
        return LoadError(
            str(self._file),
            expected=f"the state of a training with seed {self.seed}",
            got=got,
            fix="Give another --out, or delete the file to train from nothing.",
        )


def _clocks() -> tuple[float, float]:
    """Seconds on the wall, and of this process on all cores."""
    return time.monotonic(), time.process_time()


def step(
    optimizers: Sequence[Optimizer],
    rates: Sequence[float],
    loss: Tensor,
    parameters: Sequence[nn.Parameter],
    share: float,
) -> None:
    """One step at the rates of a cosine schedule with a short warm-up; gradients clipped at 1.

    Args: rates, of each optimizer at the peak; share, of the stage that is done, 0 to 1.
    """
    factor = min(1.0, share / 0.02 + 0.02) * 0.5 * (1 + math.cos(math.pi * share))
    for optimizer, rate in zip(optimizers, rates, strict=True):
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
    for optimizer in optimizers:
        optimizer.step()
