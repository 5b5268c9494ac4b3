"""Timed prefills: every schedule in turn, over and over, so that drift hits all of them alike."""

import json
import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch

from aim_cost.checks import one_of, whole
from aim_cost.errors import AimError
from aim_cost.files import write_atomically
from aim_cost.report import counted_progress, to_csv
from aim_cost.schedule import Schedule
from aim_cost.workload import LAST_LAYERS, Workload
from aim_runtime.environment import environment
from aim_runtime.errors import MeasurementError
from aim_runtime.graph import GraphedPrefill
from aim_runtime.importance_kernel import scoring
from aim_runtime.inputs import Inputs, sized_inputs
from aim_runtime.load import Loaded
from aim_runtime.masked import masked
from aim_runtime.patch import patched
from aim_runtime.timer import ClockRecorder, phase_hooks, recorder_for

Row = dict[str, Any]

# what each figure of a row sums up, by the names that the recorders give to spans
_VISION = ("vision.tower", "vision.projector", "vision.pooling")
_LAYERS = ("llm.layers", "llm.rotary")
_WHOLE = "prefill"  # where phases cannot be told apart
_FIGURES = {name: (name,) for name in (*_VISION, "merge", "llm.head", "importance", "other")} | {
    "vision": _VISION,
    "llm.layers": _LAYERS,
    "llm": (*_LAYERS, "llm.head"),
}
_KEY = (
    *("model", "layers", "vision_layers", "hardware", "dtype"),
    *("frames", "text_tokens", "batch", "execution", "schedule"),
)
EXECUTIONS = ("eager", "cuda-graph", "masked")
"""How a schedule can be run: tokens dropped, the same captured and replayed, or only masked."""


def measure(
    loaded: Loaded,
    workload: Workload,
    schedules: Sequence[Schedule],
    *,
    repeats: int = 10,
    warmup: int = 2,
    video: np.ndarray | None = None,
    out: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    execution: str = "eager",
    last_layer: str = "all",
) -> list[Row]:
    """Time the prefill of each schedule, phase by phase.

    Clock: CUDA events on a GPU, the monotonic clock on a CPU. ``warmup`` untimed rounds, then
    ``repeats`` rounds; each runs every schedule once, in an order shuffled anew. Statistic: the
    median; ``ttft_low_s`` and ``ttft_high_s`` are the quartiles. The unreduced model runs through
    the same patch as the others. Inputs are random, or ``video`` (uint8 [frames, H, W, 3]).
    ``execution``: a name of EXECUTIONS; models other than LLaVA-OneVision take eager alone, and no
    ``video``. ``last_layer``: of all schedules, as for ``patch``.

    A schedule that fails becomes a row with its ``error``; the others go on. With ``out`` the rows
    so far are on disk after every round; ``resume`` keeps those that are complete there. Ctrl-C
    returns what there is.
    Returns: rows in the order of ``schedules``, with the keys of estimates.
    Raises: MeasurementError for a file that cannot be continued; SpecError.
    """
    whole(repeats, "repeats", MeasurementError)
    whole(warmup, "warmup", MeasurementError, at_least=0)
    one_of(execution, EXECUTIONS, "execution", MeasurementError)
    one_of(last_layer, LAST_LAYERS, "last_layer", MeasurementError)
    if execution == "masked" and last_layer != "all":
        raise MeasurementError(
            "last_layer",
            expected="all with the execution masked, whose layers compute every token",
            got=last_layer,
            fix="Use the execution eager or cuda-graph, or last_layer all.",
        )
    inputs = sized_inputs(loaded, workload, video=video, seed=seed)
    runs = [_Run(loaded, workload, schedule, execution, last_layer) for schedule in schedules]
    earlier = read_rows(out) if out and resume else []
    if earlier and out:
        _require_same_software(out)
    done = {_key(row): row for row in earlier if not row["error"] and row["repeats"] >= repeats}
    todo = [run for run in runs if _key(run.row()) not in done]
    mine = {_key(run.row()) for run in runs}
    others = [row for row in earlier if _key(row) not in mine]

    def rows() -> list[Row]:
        return [done.get(_key(row), row) for row in (run.row() for run in runs)]

    def save() -> None:
        if out is not None:
            write_rows(out, [*others, *rows()])

    order = random.Random(seed)
    try:
        with counted_progress() as progress:
            task = progress.add_task("measuring", total=len(todo) * (warmup + repeats))
            for round_ in range(warmup + repeats):
                order.shuffle(todo)
                for run in todo:
                    run(inputs, timed=round_ >= warmup)
                    progress.advance(task)
                save()
    except KeyboardInterrupt:
        print("interrupted: rows hold the rounds that were finished", file=sys.stderr)
    save()
    return rows()


class _Run:
    """One schedule: its samples so far, or how it failed."""

    def __init__(
        self,
        loaded: Loaded,
        workload: Workload,
        schedule: Schedule,
        execution: str,
        last_layer: str,
    ) -> None:
        self._loaded, self._workload, self._schedule = loaded, workload, schedule
        self._execution, self._last_layer = execution, last_layer
        self._graph: GraphedPrefill | None = None
        self._samples: list[dict[str, float]] = []
        self._tokens: list[int] | None = None
        self._peak_bytes: int | None = None
        self._error: str | None = None

    def __call__(self, inputs: Inputs, *, timed: bool) -> None:
        if self._error:
            return
        try:
            sample = self._forward(inputs)
            if timed:
                self._samples.append(sample)
        except AimError:  # asked for something impossible: that is for the user to correct
            raise
        except Exception as error:  # whatever torch or transformers raise, memory above all
            self._error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        # only now: until here the traceback held the tensors of the run
        if self._error and self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, inputs: Inputs) -> dict[str, float]:
        model, device = self._loaded.model, self._loaded.device
        cuda = device.type == "cuda"
        recorder = recorder_for(device)
        if self._execution == "cuda-graph":
            return self._replay(inputs, recorder)
        whole = self._execution == "masked"
        under = masked if whole else partial(patched, last_layer=self._last_layer)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        with (
            torch.inference_mode(),
            under(model, self._schedule, recorder=recorder) as trace,
            phase_hooks(model, recorder),
            recorder.span("other"),
        ):
            logits = model(**inputs, use_cache=True, logits_to_keep=1).logits
            logits[:, -1].argmax(dim=-1)
        seconds = recorder.seconds()
        self._tokens = list(trace.tokens.attention_tokens)
        if cuda:
            self._peak_bytes = torch.cuda.max_memory_allocated(device)
        return seconds

    def _replay(self, inputs: Inputs, recorder: ClockRecorder) -> dict[str, float]:
        """One launch of the captured prefill; its phases cannot be told apart."""
        if self._graph is None:
            self._graph = GraphedPrefill(
                self._loaded, self._schedule, inputs, last_layer=self._last_layer
            )
        with recorder.span(_WHOLE):
            self._graph.replay().logits[:, -1].argmax(dim=-1)
        self._tokens = list(self._graph.trace.tokens.attention_tokens)
        return recorder.seconds()

    def row(self) -> Row:
        """The row as of now; times are None before the first timed run and after a failure."""
        spec, samples = self._loaded.spec, [] if self._error else self._samples
        ttft = [sum(sample.values()) for sample in samples]

        def middle(*names: str) -> float | None:
            if not samples or _WHOLE in samples[0]:
                return None
            return median(sum(s.get(n, 0.0) for n in names) for s in samples)

        low, high = quartiles(ttft)
        return {
            "kind": "measurement",
            "model": spec.name,
            "layers": spec.text.num_hidden_layers,
            "vision_layers": spec.vision.num_hidden_layers,
            "hardware": device_name(self._loaded.device),
            "dtype": self._loaded.dtype,
            **visual_fields(self._workload),
            "text_tokens": self._workload.text_tokens,
            "batch": self._workload.batch,
            "execution": self._execution,
            "scoring": scoring(self._loaded.device),
            "last_layer": self._last_layer,
            "schedule": self._schedule.label(),
            **{f"{name}.time_s": middle(*spans) for name, spans in _FIGURES.items()},
            "ttft_s": median(ttft) if ttft else None,
            "ttft_low_s": low,
            "ttft_high_s": high,
            "peak_memory_bytes": self._peak_bytes,
            "tokens_per_layer": self._tokens,
            "repeats": len(samples),
            "error": self._error,
        }


def visual_fields(workload: Workload) -> Row:
    """What a row says of the pixels; under the keys of estimates, further ones where given."""
    row: Row = {"frames": workload.frames, "image_tokens": workload.image_tokens}
    if workload.images is not None:
        row["images"] = [list(size) for size in workload.images]
    if workload.frame_size is not None:
        row["frame_size"] = list(workload.frame_size)
    return row


def quartiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return (values[0], values[0]) if values else (None, None)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def device_name(device: torch.device) -> str:
    """What the driver calls a GPU; ``cpu`` for a CPU, which the environment describes."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows atomically: CSV where the name ends so, else JSON with the environment."""
    if path.suffix == ".csv":
        write_atomically(path, (to_csv(rows) + "\n").encode())
    else:
        content = {"environment": environment(), "rows": list(rows)}
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON file that ``write_rows`` wrote; none when there is no file.

    Raises: MeasurementError for a file of another kind.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        if all({*_KEY, "repeats", "error"} <= {*row} for row in rows):
            # labels as they are written today: rows are told apart by them
            return [row | {"schedule": Schedule.read(row["schedule"]).label()} for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _not_rows(path, " ".join(str(error).split())) from error
    raise _not_rows(path, "other rows")


def _require_same_software(path: Path) -> None:
    """A file has one environment: rows of another device or version would be told as ours."""
    then, now = json.loads(path.read_text(encoding="utf-8"))["environment"], environment()
    for name in ("torch", "transformers", "cuda", "gpu", "cpu"):
        if then.get(name) != now[name]:
            raise MeasurementError(
                f"{path}: environment.{name}",
                expected=f"{now[name]}, as here",
                got=then.get(name),
                fix="Give another --out.",
            )


def _not_rows(path: Path, got: str) -> MeasurementError:
    return MeasurementError(
        f"{path}",
        expected="JSON rows that measure wrote",
        got=got,
        fix="Give another --out, or leave --resume out.",
    )


def _key(row: Row) -> tuple[Any, ...]:
    # rows that were written before there was a choice say nothing of the last layer
    pixels = (str(row.get(name)) for name in ("image_tokens", "images", "frame_size"))
    return (*(row[name] for name in _KEY), row.get("last_layer", "all"), *pixels)
