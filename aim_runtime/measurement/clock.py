"""Recorders: how long the phases of one forward pass took."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from aim_runtime.errors import MeasurementError
from aim_runtime.models import MODEL_TYPES, find_adapter
from aim_runtime.recorder import Recorder


class ClockRecorder:
    """Times named spans with the monotonic clock of the host, for devices that compute in step.

    Spans nest. Time inside a nested span belongs to that span alone, so the times of all names
    add up to the time of the outermost spans.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[str, int | None, Any, Any]] = []
        self._open: list[int] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time the body under ``name``; a name may come again."""
        index, parent = len(self._spans), self._open[-1] if self._open else None
        self._open.append(index)
        start = self._mark()
        self._spans.append((name, parent, start, start))
        try:
            yield
        finally:
            self._spans[index] = (name, parent, start, self._mark())
            self._open.pop()

    def seconds(self) -> dict[str, float]:
        """Return the seconds spent in each name, nested spans excluded, repeats added up."""
        own: defaultdict[str, float] = defaultdict(float)
        for name, parent, start, stop in self._spans:
            elapsed = self._elapsed_s(start, stop)
            own[name] += elapsed
            if parent is not None:
                own[self._spans[parent][0]] -= elapsed
        return dict(own)

    def _mark(self) -> Any:
        return time.perf_counter()

    def _elapsed_s(self, start: Any, stop: Any) -> float:
        return float(stop - start)


class CudaRecorder(ClockRecorder):
    """Times spans on a CUDA stream with events; the device is waited for once, in ``seconds``."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._stream = torch.cuda.current_stream(device)

    def seconds(self) -> dict[str, float]:
        self._stream.synchronize()
        return super().seconds()

    def _mark(self) -> Any:
        return self._stream.record_event(torch.cuda.Event(enable_timing=True))

    def _elapsed_s(self, start: Any, stop: Any) -> float:
        return float(start.elapsed_time(stop)) * 1e-3  # CUDA gives milliseconds


def recorder_for(device: torch.device) -> ClockRecorder:
    """A new recorder that tells the truth on ``device``. Raises: MeasurementError."""
    if device.type == "cuda":
        return CudaRecorder(device)
    if device.type == "cpu":
        return ClockRecorder()
    raise MeasurementError(
        "device",
        expected="cuda or cpu",
        got=device.type,
        fix="Choose one of them: other devices run ahead of the host's clock.",
    )


@contextmanager
def phase_hooks(model: PreTrainedModel, recorder: Recorder) -> Iterator[None]:
    """Record the phases of the cost model while the body runs ``model``.

    Spans: ``vision.tower``, ``vision.projector``, ``vision.pooling``, ``llm.layers`` (decoder
    layers and final norm), ``llm.head``; and within the layers ``llm.rotary``, the angles, which
    the cost model does not count: a matmul in older transformers, none in newer. Enter it
    inside ``patched``: its span ``importance`` then lies within the layers, ``merge`` in none.
    Raises: MeasurementError for a model that is no vision-language model.
    """
    adapter = find_adapter(model)
    if adapter is None:
        raise MeasurementError(
            "model",
            expected=f"one of {', '.join(kind.__name__ for kind in MODEL_TYPES.values())}",
            got=type(model).__name__,
            fix="Only these have all the phases.",
        )
    phases: tuple[tuple[Any, str, str], ...] = (
        *adapter.vision_phases,
        (adapter.decoder, "forward", "llm.layers"),
        (adapter.decoder.rotary_emb, "forward", "llm.rotary"),
        (model.lm_head, "forward", "llm.head"),
    )
    with ExitStack() as stack:
        for owner, method, name in phases:
            stack.enter_context(_timed(owner, method, functools.partial(recorder.span, name)))
        yield


@contextmanager
def _timed(owner: Any, method: str, span: Callable[[], Any]) -> Iterator[None]:
    """Let ``owner.method`` run inside ``span()``, on this instance only."""
    original, own = getattr(owner, method), vars(owner).get(method)

    @functools.wraps(original)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with span():
            return original(*args, **kwargs)

    setattr(owner, method, inside)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, method)
        else:
            setattr(owner, method, own)
