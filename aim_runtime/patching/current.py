"""Current: what the innermost call in this thread works on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Current(threading.local, Generic[_Value]):
    """A value that belongs to one call: each thread has its own, and so has a call in a call."""

    value: _Value | None = None

    @contextmanager
    def during(self, value: _Value | None) -> Iterator[None]:
        """Make ``value`` the current one while the body runs, then the one before again."""
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before

    def take(self) -> _Value | None:
        """Return the value; calls inside this one find None."""
        value, self.value = self.value, None
        return value
