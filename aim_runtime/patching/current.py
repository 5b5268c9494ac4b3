"""Current: what the innermost call in this thread works on."""

import threading
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Current(threading.local, Generic[_Value]):
    """A value that belongs to one call: each thread has its own, and so has a call in a call."""

    value: _Value | None = None

    def during(self, value: _Value | None) -> AbstractContextManager[None]:
        """Make ``value`` the current one while the body runs, then the one before again."""
        return _During(self, value)

    def take(self) -> _Value | None:
        """Return the value; calls inside this one find None."""
        value, self.value = self.value, None
        return value


class _During(AbstractContextManager[None], Generic[_Value]):
    """A class, since torch.compile cannot trace the generator of a ``contextmanager``."""

    def __init__(self, current: Current[_Value], value: _Value | None) -> None:
        self._current, self._value, self._before = current, value, current.value

    def __enter__(self) -> None:
        self._current.value = self._value

    def __exit__(self, *raised: object) -> None:
        self._current.value = self._before
