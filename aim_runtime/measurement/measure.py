"""Timed prefills: every schedule in turn, over and over, so that drift hits all of them alike."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from aim_cost.checks import one_of, whole
from aim_cost.errors import AimError
from aim_cost.models.workload import LastLayer, Workload
from aim_cost.ops.op import PHASES
from aim_cost.render import say
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.attention_backend import AttentionBackend, attention_backend
from aim_runtime.measurement.clock import ClockRecorder, phase_hooks, recorder_for
from aim_runtime.measurement.decode import decode_greedily
from aim_runtime.measurement.flops import count_flops
from aim_runtime.measurement.measurement import Measurement
from aim_runtime.measurement.place import row_key
from aim_runtime.measurement.rounds import Rounds
from aim_runtime.measurement.row_file import Nowhere, RowFile, RowStore
from aim_runtime.measurement.row_key import RowKey
from aim_runtime.measurement.run_kind import PREFILLS, RunKind
from aim_runtime.measurement.timed_run import WHOLE, TimedRun
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.load import Loaded
from aim_runtime.patching.cuda_graph import GraphedPrefill
from aim_runtime.patching.masked import masked
from aim_runtime.patching.patch import patched
from aim_runtime.prompts.inputs import sized_inputs


def measure(
    loaded: Loaded,
    workload: Workload,
    schedules: Schedule | str | Iterable[Schedule | str],
    *,
    repeats: int = 10,
    warmup: int = 2,
    video: np.ndarray | None = None,
    out: Path | RowStore | None = None,
    resume: bool = False,
    seed: int = 0,
    execution: RunKind | str = RunKind.EAGER,
    last_layer: LastLayer = LastLayer.ALL,
    attention: AttentionBackend | None = None,
    visit: int = 1,
    refuse: bool = True,
    answer_tokens: int = 1,
    count: bool = False,
) -> list[Measurement]:
    """Time the prefill of each schedule, phase by phase.

    Clock: CUDA events on a GPU, the monotonic clock on a CPU. ``warmup`` untimed rounds, then
    ``repeats`` rounds; each runs every schedule once, in a new random order. Statistic: the
    median; ``ttft_low_s`` and ``ttft_high_s`` are the quartiles. The unreduced model runs through
    the same patch as the others. Inputs are random, or ``video`` (uint8 [frames, H, W, 3]).

    Args:
        execution: one of PREFILLS, or its name; models other than LLaVA-OneVision take eager
            alone, and no ``video``. The time of a CUDA graph includes its launch by the host.
        last_layer: of all schedules, as for ``patch``.
        attention: the backend of all attentions; by default the one that torch chooses. Each row
            names it: ``attention_backend``.
        visit: part of a row's key; a second measurement of the same thing has another one.
        refuse: an AimError, which asks for something impossible, ends the measurement; False makes
            it a row, like any other failure.
        answer_tokens: those after the first are decoded greedily in the same run, so that rows
            have ``tpot_s`` and ``end_to_end_s``; execution eager alone.
        count: the FLOPs of each run are counted before it is timed; execution eager alone.
        out: the rows so far are there after every round; with ``resume`` those that are complete in
            a file are kept.

    A schedule that fails becomes a row with its ``error``; the others go on. Ctrl-C returns what
    there is.
    Returns: rows in the order of ``schedules``.
    Raises: MeasurementError for a file that cannot be continued; SpecError.
    """
    whole(repeats, "repeats", MeasurementError)
    whole(warmup, "warmup", MeasurementError, at_least=0)
    execution = RunKind(one_of(execution, PREFILLS, "execution", MeasurementError))
    whole(answer_tokens, "answer_tokens", MeasurementError)
    last_layer = LastLayer.read(last_layer, MeasurementError)
    if execution is not RunKind.EAGER and (answer_tokens > 1 or count):
        raise MeasurementError(
            "execution",
            expected="eager, under which answers are decoded and FLOPs counted",
            got=execution,
            fix="Leave execution out, or answer_tokens and count.",
        )
    if execution is RunKind.MASKED and last_layer is not LastLayer.ALL:
        raise MeasurementError(
            "last_layer",
            expected="all with the execution masked, whose layers compute every token",
            got=last_layer,
            fix="Use the execution eager or cuda-graph, or last_layer all.",
        )
    inputs = sized_inputs(loaded, workload, video=video, seed=seed)
    raises = (AimError,) if refuse else ()
    runs = []
    for schedule in Schedule.all_of(schedules):
        key = row_key(
            *(loaded, workload, schedule, execution, last_layer),
            attention=attention,
            visit=visit,
            answer_tokens=answer_tokens,
        )
        runs.append(_Prefill(key, raises, loaded, schedule, inputs, attention, count))
    store = RowFile(out, resume=resume) if isinstance(out, Path) else out or Nowhere()
    rounds = Rounds(runs, store, repeats=repeats, warmup=warmup, seed=seed)
    try:
        rounds.run()
    except KeyboardInterrupt:
        say("interrupted: rows hold the rounds that were finished")
    return rounds.rows()


class _Prefill(TimedRun):
    """One schedule of one model, on the model's device."""

    def __init__(
        self,
        key: RowKey,
        raises: tuple[type[Exception], ...],
        loaded: Loaded,
        schedule: Schedule,
        inputs: Inputs,
        attention: AttentionBackend | None,
        count: bool,
    ) -> None:
        super().__init__(key, raises, counts=count)
        self._loaded, self._schedule, self._inputs = loaded, schedule, inputs
        self._attention = attention
        self._graph: GraphedPrefill | None = None

    def _sample(self) -> dict[str, float]:
        with attention_backend(self._attention):
            graphed = self.key.run.execution is RunKind.CUDA_GRAPH
            return self._replay() if graphed else self._forward()

    def _count(self) -> dict[str, int]:
        flops, _ = count_flops(
            *(self._loaded, self._schedule),
            lambda: self._loaded.model(**self._inputs, use_cache=True, logits_to_keep=1),
            last_layer=self.key.run.last_layer,
        )
        return {name: flops.get(name, 0) for name in PHASES}

    def _free(self) -> None:
        self._graph = None
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()

    def _driver_allocations(self) -> int | None:
        device = self._loaded.device
        if device.type != "cuda":
            return None
        return int(torch.cuda.memory_stats(device)["num_device_alloc"])

    def _forward(self) -> dict[str, float]:
        model, device = self._loaded.model, self._loaded.device
        run, cuda, recorder = self.key.run, device.type == "cuda", recorder_for(device)
        under = (
            masked
            if run.execution is RunKind.MASKED
            else partial(patched, last_layer=run.last_layer)
        )
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        with (
            torch.inference_mode(),
            under(model, self._schedule, recorder=recorder) as trace,
        ):
            with phase_hooks(model, recorder), recorder.span("other"):
                output = model(**self._inputs, use_cache=True, logits_to_keep=1)
                output.logits[:, -1].argmax(dim=-1)
            if self.key.answer_tokens > 1:
                decode_greedily(self._loaded, output, self.key.answer_tokens - 1, recorder)
        seconds = recorder.seconds()
        self._tokens = trace.tokens.attention_tokens
        if cuda:
            self._peak_bytes = torch.cuda.max_memory_allocated(device)
        return seconds

    def _replay(self) -> dict[str, float]:
        """One launch of the captured prefill; its phases cannot be told apart."""
        recorder: ClockRecorder = recorder_for(self._loaded.device)
        if self._graph is None:
            self._graph = GraphedPrefill(
                self._loaded, self._schedule, self._inputs, last_layer=self.key.run.last_layer
            )
        with recorder.span(WHOLE):
            self._graph.replay().logits[:, -1].argmax(dim=-1)
        self._tokens = self._graph.trace.tokens.attention_tokens
        return recorder.seconds()
