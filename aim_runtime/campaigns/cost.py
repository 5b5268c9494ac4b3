"""The expected time of a campaign's steps, and whether the device's memory holds them."""

from dataclasses import dataclass, replace

from aim_cost.models.model import load_model_spec
from aim_cost.models.parameters import model_parameters
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import dtype_bytes
from aim_runtime.campaigns.figures import Figures
from aim_runtime.campaigns.prediction import priced
from aim_runtime.campaigns.setting import Setting
from aim_runtime.campaigns.step import DecodeStep, KernelStep, PrefillStep, Step
from aim_runtime.measurement.attention_backend import AttentionBackend
from aim_runtime.measurement.row_key import RunKey
from aim_runtime.measurement.run_kind import RunKind

Shape = tuple[str, int, int]
"""The key of a cuDNN plan: which part of which model, tokens, and sequences at once."""


@dataclass(frozen=True)
class Overheads:
    """Costs other than the prefills themselves. They have not been measured on a GPU.

    Args:
        reserve: predicted seconds of prefills are multiplied by it.
        start_s: imports and the CUDA context, once a call.
        weights_bytes_per_s: random weights that are made on the device; load_s: the modules.
        step_s: inputs, the environment and the clocks; frame_s: random pixels of a frame.
        plan_s: one attention plan of cuDNN; others report 0.4 s on H20 and 0.44 s on B200
            (sgl-project/sglang 4650, modelscope/FunASR 3704).
        plans_of_kernels: attention shapes in the kernel tables of a model.
        capture_prefills, capture_s: of a CUDA graph: warm-ups, and the capture.
        captures_of_kernels_s: all the graphs of a model's kernel tables.
        pool_bytes: memory of a microbenchmark beside the model.
        memory_share: of the device's memory; the CUDA context and fragments take the rest.
        masked_prefills: a masked prefill, whose attention writes its matrix of scores, in units
            of the same prefill without pruning.
        token_s: one decoded token, host-bound.
    """

    reserve: float = 1.4
    start_s: float = 15.0
    weights_bytes_per_s: float = 4e9
    load_s: float = 2.0
    step_s: float = 1.0
    frame_s: float = 0.01
    plan_s: float = 0.4
    plans_of_kernels: int = 51
    capture_prefills: int = 4
    capture_s: float = 0.5
    captures_of_kernels_s: float = 4.0
    pool_bytes: float = 6e9
    memory_share: float = 0.95
    masked_prefills: float = 4.0
    token_s: float = 0.035


@dataclass(frozen=True)
class Warmth:
    """The model and attention plans that a process has and the next step need not make again."""

    started: bool = False
    model: str | None = None
    shapes: frozenset[Shape] = frozenset()


class Costs:
    """Predicted seconds of steps in one setting."""

    def __init__(self, setting: Setting, overheads: Overheads | None = None) -> None:
        self._setting = setting
        self._overheads = overheads or Overheads()

    def seconds(self, step: Step, warmth: Warmth) -> float:
        """Seconds of a step, with the work that has to be done before it."""
        return self.before_s(step, warmth) + self._work_s(step)

    def before_s(self, step: Step, warmth: Warmth) -> float:
        """Seconds of what a step needs before its own work: the model, inputs, plans."""
        over = self._overheads
        total = over.step_s + over.frame_s * step.frames + self._plans_s(step, warmth)
        if not warmth.started:
            total += over.start_s
        if warmth.model != step.model and not isinstance(step, KernelStep):
            total += over.load_s + self._weights_bytes(step) / over.weights_bytes_per_s
        return total

    def after(self, step: Step, warmth: Warmth) -> Warmth:
        """The model and plans that exist after the step."""
        model = warmth.model if isinstance(step, KernelStep) else step.model
        return Warmth(True, model, warmth.shapes | self._shapes(step))

    def kernel_seconds(self, step: KernelStep) -> float:
        """The time to give to ``microbench``, whose clock runs while it builds and captures."""
        return self._plans_s(step, Warmth()) + self._work_s(step)

    def fits_memory(self, step: Step) -> bool:
        """Whether the device's memory holds what a step needs at its peak, by the model."""
        room = self._overheads.memory_share * self._setting.hardware.memory_bytes
        return self._peak_bytes(step) <= room

    def masked_s(self, step: PrefillStep, schedule: Schedule) -> float:
        """Seconds of a masked prefill: merged for good, then no token leaves."""
        merged_s = self._ttft_s(
            replace(step, execution=RunKind.EAGER), replace(schedule, prune=None)
        )
        return self._overheads.masked_prefills * merged_s

    def decode_s(self, step: DecodeStep, schedule: Schedule) -> float:
        """Seconds of a prefill and the tokens after it."""
        return self._ttft_s(step, schedule) + step.new_tokens * self._overheads.token_s

    def _work_s(self, step: Step) -> float:
        over = self._overheads
        if isinstance(step, KernelStep):
            return over.captures_of_kernels_s + step.seconds
        rounds = 1 + step.rounds
        if isinstance(step, DecodeStep):
            return rounds * sum(self.decode_s(step, s) for s in step.schedules)
        if step.execution is RunKind.MASKED:
            once = sum(self.masked_s(step, schedule) for schedule in step.schedules)
            return over.reserve * rounds * once
        once = sum(self._ttft_s(step, schedule) for schedule in step.schedules)
        if step.execution is RunKind.CUDA_GRAPH:
            once_eager = sum(
                self._ttft_s(replace(step, execution=RunKind.EAGER), s) for s in step.schedules
            )
            captures = over.capture_prefills * once_eager * over.reserve
            return over.reserve * rounds * once + captures + over.capture_s * len(step.schedules)
        return over.reserve * rounds * once

    def _plans_s(self, step: Step, warmth: Warmth) -> float:
        if self._setting.backend(step) is not AttentionBackend.cudnn:
            return 0.0
        if isinstance(step, KernelStep):
            return self._overheads.plan_s * self._overheads.plans_of_kernels
        return self._overheads.plan_s * len(self._shapes(step) - warmth.shapes)

    def _shapes(self, step: Step) -> frozenset[Shape]:
        if isinstance(step, KernelStep):
            return frozenset()  # its plans serve no prefill, whose sizes lie between its own
        tower: Shape = ("tower", step.spec.vision.tokens, step.frames)
        lengths = {tokens for one in self._priced(step) for tokens in one.tokens_per_layer}
        if isinstance(step, DecodeStep):  # one token more each time
            lengths = {n + more for n in lengths for more in range(step.new_tokens + 1)}
        return frozenset({tower, *((step.spec.name, tokens, 1) for tokens in lengths)})

    def _weights_bytes(self, step: Step) -> float:
        return model_parameters(step.spec) * dtype_bytes(self._setting.dtype)

    def _ttft_s(self, step: PrefillStep | DecodeStep, schedule: Schedule) -> float:
        (figures,) = self._priced(replace(step, schedules=(schedule,)))
        return figures.ttft.time_s

    def _priced(self, step: PrefillStep | DecodeStep) -> list[Figures]:
        return [self.priced(step.model, key.run) for key in self._setting.row_keys(step)]

    def priced(self, model: str, run: RunKey) -> Figures:
        """The model's figures of a run."""
        return priced(load_model_spec(model), run, self._setting.hardware)

    def peak_bytes(self, figures: Figures) -> int:
        """The peak of one prefill under the transformers of the setting."""
        peak = figures.peak_bytes(keeps_tower_states=self._setting.keeps_tower_states)
        assert peak is not None  # old predictions lack it, what is priced here has both
        return peak

    def _peak_bytes(self, step: Step) -> float:
        if isinstance(step, KernelStep):
            return self._weights_bytes(step) + self._overheads.pool_bytes
        found = self._priced(step)
        peaks = [self.peak_bytes(one) for one in found]
        peak = float(max(peaks))
        if isinstance(step, PrefillStep) and step.execution is RunKind.CUDA_GRAPH:
            weights = found[0].weights_bytes  # each graph holds its own activations
            peak = weights + sum(one - weights for one in peaks)
        if isinstance(step, PrefillStep) and step.execution is RunKind.MASKED:
            tokens = max(one.prompt_tokens for one in found)
            peak += 10.0 * step.spec.text.num_attention_heads * tokens**2  # scores, more than once
        return peak
