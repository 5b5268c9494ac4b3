"""Generation as lmms-eval asks for it, with the first token on the clock."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from aim_runtime.errors import InputError
from aim_runtime.measurement.clock import ClockRecorder

_SAMPLING = ("temperature", "top_p", "top_k")
_VALID = (
    *("do_sample", "max_new_tokens", "num_beams", "repetition_penalty", "until"),
    *_SAMPLING,
    "image_aspect_ratio",  # of images; a video has none
)


def generation_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Split a task's ``generation_kwargs``: options of ``generate``, and strings to stop at.

    Without ``do_sample``, a temperature above 0 means sampling; otherwise decoding is greedy, or a
    beam search. Raises: InputError that lists the valid names.
    """
    unknown = sorted(given.keys() - set(_VALID))
    if unknown:
        raise InputError(
            f"generation_kwargs.{unknown[0]}",
            expected="an option that is supported",
            got=unknown[0],
            fix=f"Known: {', '.join(sorted(_VALID))}.",
        )
    options = {name: value for name, value in given.items() if value is not None}
    options.pop("image_aspect_ratio", None)
    until = options.pop("until", ())
    sampling = bool(options.get("temperature", 0)) and options.get("do_sample", True)
    if not sampling:
        options = {name: value for name, value in options.items() if name not in _SAMPLING}
    stops = (until,) if isinstance(until, str) else tuple(until)
    return {"max_new_tokens": 1024} | options | {"do_sample": sampling}, stops


def cut(text: str, stops: tuple[str, ...]) -> str:
    """``text`` up to the first of the stops, without blanks around it."""
    text = text.strip()
    for stop in stops:
        if stop:
            text = text.split(stop, 1)[0]
    return text.strip()


class FirstToken(StoppingCriteria):
    """Times ``generate``: the span ``ttft`` ends with the first token, ``decode`` with the last.

    Use it as a context manager around ``generate``, and pass it as a stopping criterion, which
    ``generate`` asks after every token; it never stops. On a GPU nothing waits for the device.
    """

    def __init__(self, recorder: ClockRecorder) -> None:
        self._recorder, self._open, self._tokens = recorder, ExitStack(), 0

    def __enter__(self) -> "FirstToken":
        self._open.enter_context(self._recorder.span("ttft"))
        return self

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self._tokens += 1
        if self._tokens == 1:
            self._open.close()
            self._open.enter_context(self._recorder.span("decode"))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def __exit__(self, *error: object) -> None:
        self._open.close()
