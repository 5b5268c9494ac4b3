"""TimedRun: one schedule of a measurement, its samples so far, or how it failed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from statistics import median, quantiles

from aim_runtime.errors import error_line
from aim_runtime.measurement.measurement import PHASE_TIMES, Measurement
from aim_runtime.measurement.row_key import RowKey

WHOLE = "prefill"
"""The span of a run whose phases cannot be told apart."""

DECODE = "decode"
"""The span of the tokens of an answer after the first."""

_VISION = ("vision.tower", "vision.projector", "vision.pooling")
_LAYERS = ("llm.layers", "llm.rotary")
# the spans of recorders that a phase is the sum of, where it is not the span of its own name
_SPANS = {"vision": _VISION, "llm.layers": _LAYERS, "llm": (*_LAYERS, "llm.head")}


class TimedRun(ABC):
    """Call it to run once. Subclasses say how.

    Args:
        key: of its measurement.
        raises: exceptions that leave the call; any other one becomes the ``error`` of the
            measurement, and later calls do nothing.
        counts: whether the first call counts FLOPs before it runs.
    """

    def __init__(
        self, key: RowKey, raises: tuple[type[Exception], ...] = (), *, counts: bool = False
    ) -> None:
        self.key = key
        self.counts = counts
        self._raises = raises
        self._flops: Mapping[str, int] | None = None
        self._samples: list[dict[str, float]] = []
        self._error: str | None = None
        self._tokens: tuple[int, ...] | None = None
        self._peak_bytes: int | None = None
        self._allocations: int | None = None

    @abstractmethod
    def _sample(self) -> dict[str, float]:
        """Run once. Returns: seconds of each span, or of WHOLE alone."""

    def _count(self) -> Mapping[str, int]:
        """Run once. Returns: FLOPs of each of PHASES."""
        raise NotImplementedError

    def _free(self) -> None:  # noqa: B027
        """Give memory back after a failure; there may be none to give."""

    def _driver_allocations(self) -> int | None:
        """How often the driver was asked for memory so far; None where it is not counted."""
        return None

    def __call__(self, *, timed: bool) -> None:
        if self._error:
            return
        try:
            if self.counts and self._flops is None:
                self._flops = self._count()
            before = self._driver_allocations()
            sample = self._sample()
        except self._raises:
            raise
        except Exception as error:  # whatever torch or transformers raise, memory above all
            self._error = error_line(error)
        else:
            after = self._driver_allocations()
            if timed:
                self._samples.append(sample)
                if before is not None and after is not None:
                    self._allocations = (self._allocations or 0) + after - before
        if self._error:  # only now: until here the traceback held the tensors of the run
            self._free()

    def measurement(self) -> Measurement:
        """The measurement so far; times are None before the first timed run and after a failure."""
        samples = [] if self._error else self._samples
        prefills = [{name: s for name, s in one.items() if name != DECODE} for one in samples]
        ttft = [sum(prefill.values()) for prefill in prefills]
        decodes = [sample[DECODE] for sample in samples if DECODE in sample]
        end_to_end = [sum(sample.values()) for sample in samples if DECODE in sample]
        told_apart = bool(samples) and WHOLE not in samples[0]

        def middle(phase: str) -> float | None:
            spans = _SPANS.get(phase, (phase,))
            times = [sum(sample.get(span, 0.0) for span in spans) for sample in samples]
            return median(times) if told_apart else None

        low, high = quartiles(ttft)
        return Measurement(
            key=self.key,
            phase_s={phase: middle(phase) for phase in PHASE_TIMES},
            ttft_s=median(ttft) if ttft else None,
            ttft_low_s=low,
            ttft_high_s=high,
            peak_memory_bytes=self._peak_bytes,
            driver_allocations=self._allocations,
            tokens_per_layer=self._tokens,
            repeats=len(samples),
            error=self._error,
            flops=self._flops,
            tpot_s=median(decodes) / (self.key.answer_tokens - 1) if decodes else None,
            end_to_end_s=median(end_to_end) if end_to_end else None,
        )


def quartiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The lower and the upper quartile; a single value is both, none has neither."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (None, None)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high
