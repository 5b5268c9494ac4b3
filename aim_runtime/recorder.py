"""Recorder: receives the named spans of a run, to time them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Recorder(Protocol):
    """Receives the spans of a patched run: ``merge`` once a video, ``importance`` at each drop.

    ``importance`` covers scoring and selection; the gather that follows belongs to the next layer.
    """

    def span(self, name: str) -> AbstractContextManager[None]:
        """A context that is open while the part called ``name`` is being issued."""
        ...


class _NullRecorder:
    def span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


NULL_RECORDER: Recorder = _NullRecorder()
